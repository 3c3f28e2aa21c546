package configs_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/http1"
	"github.com/splitd/splitd/shadow/smtp"
	"github.com/splitd/splitd/traffic"
)

func seeds(f *testing.F) []string {
	f.Helper()
	shipped, err := filepath.Glob("examples/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	texts := []string{configs.Reference()}
	for _, file := range slices.Concat(badFiles(f), goodFiles(f), shipped) {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

// FuzzParseDefinition: no text makes the parser panic; each error has a place
// inside the text and is one line; what is accepted keeps the promises of a
// definition and is the same when read again.
func FuzzParseDefinition(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := configs.ParseDefinition("a.yaml", text)
		if err != nil {
			checkErrors(t, err, map[string]string{"a.yaml": string(text)})
			return
		}
		checkDefinition(t, first)
		second, err := configs.ParseDefinition("a.yaml", text)
		if err != nil {
			t.Fatalf("accepted, then refused: %v", err)
		}
		if diff := cmp.Diff(first, second, equateAddrs()); diff != "" {
			t.Errorf("read twice (-first +second):\n%s", diff)
		}
	})
}

// FuzzLoad: the same for two files together, and for a flag and a variable.
func FuzzLoad(f *testing.F) {
	texts := seeds(f)
	for i, text := range texts {
		f.Add(text, texts[(i+1)%len(texts)], "127.0.0.1:9480", "debug")
	}
	dir := f.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	f.Fuzz(func(t *testing.T, first, second, flag, variable string) {
		for file, text := range map[string]string{a: first, b: second} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		config, err := configs.Load(configs.Options{
			Files:     []string{a, b},
			Flags:     map[string]string{"http.listen": flag},
			LookupEnv: env("SPLITD_LOG_LEVEL", variable),
		})
		if err != nil {
			checkErrors(t, err, map[string]string{a: first, b: second, "command line": "", "environment": ""})
			return
		}
		checkDefinition(t, config.Definition)
		if config.HTTP.Listen != flag || variable != "" && strings.ToLower(config.Log.Level.String()) != variable {
			t.Errorf("flag %q and variable %q gave %+v", flag, variable, config)
		}
	})
}

func checkErrors(t *testing.T, err error, texts map[string]string) {
	t.Helper()
	found, ok := errors.AsType[configs.Errors](err)
	if !ok || len(found) == 0 {
		t.Fatalf("error is a %T", err)
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != len(found) {
		t.Errorf("%d errors on %d lines:\n%s", len(found), n, err)
	}
	for _, e := range found {
		text, known := texts[e.File]
		switch lines := strings.Split(text, "\n"); {
		case !known:
			t.Errorf("no file of ours: %s", e)
		case text == "" && e.Line == 0:
		case e.Line < 1 || e.Line > len(lines), e.Column < 1 || e.Column > 1+utf8.RuneCountInString(lines[e.Line-1]):
			t.Errorf("place outside the text: %s", e)
		case e.Message == "":
			t.Errorf("no message: %s", e)
		}
	}
}

// checkDefinition checks the promises that other rooms rely on.
func checkDefinition(t *testing.T, d configs.Definition) {
	t.Helper()
	names := map[string]bool{}
	services := map[netip.Addr][]traffic.Port{}
	for _, s := range d.Splits {
		if err := traffic.CheckName(s.Name); err != nil || names[s.Name] {
			t.Errorf("split %q: %v, or twice", s.Name, err)
		}
		names[s.Name] = true
		if d.Places[s.Name].Line < 1 {
			t.Errorf("split %q stands nowhere", s.Name)
		}
		checkBackends(t, s)
		checkHealth(t, s)
		checkDraw(t, s)
		checkGroups(t, s)
		checkShadow(t, s)
		checkTLS(t, s, d.Files)
		for _, ip := range s.Service.Addresses {
			for _, port := range s.Service.Ports {
				tcp := port.Transport == traffic.TCP
				if slices.ContainsFunc(services[ip], port.Overlaps) || port.Number == 0 || !tcp && port.Transport != traffic.UDP {
					t.Errorf("split %q: service %s %s twice or wrong", s.Name, ip, port)
				}
				if s.Mode != traffic.ModeKernel && port.IsRange() {
					t.Errorf("split %q: service %s in mode %s", s.Name, port, s.Mode)
				}
				services[ip] = append(services[ip], port)
			}
		}
	}
	if len(d.Places) != len(d.Splits) || len(d.ReturnPaths) > 15 {
		t.Errorf("%d places for %d splits, %d return paths", len(d.Places), len(d.Splits), len(d.ReturnPaths))
	}
	for _, p := range d.ReturnPaths {
		byAddress := p.Match == traffic.MatchAddress
		if p.Device == "" || len(p.Device) > 15 || p.Address.IsValid() != byAddress || byAddress && p.Via.Is4() != p.Address.Is4() {
			t.Errorf("return path %+v", p)
		}
	}
}

func checkBackends(t *testing.T, s traffic.Split) {
	t.Helper()
	if s.CandidateWeight() > traffic.Whole || s.PrimaryWeight() < 0 || len(s.Candidates) == 0 ||
		len(s.Service.Addresses) == 0 || len(s.Service.Ports) == 0 || s.Generation != 0 {
		t.Errorf("split %+v", s)
	}
	names, ends := map[string]bool{}, map[string]bool{}
	for _, b := range s.Backends() {
		if err := traffic.CheckName(b.Name); err != nil || names[b.Name] || !b.Weight.Valid() {
			t.Errorf("split %q, backend %q: %v, or twice, or weight %s", s.Name, b.Name, err, b.Weight)
		}
		names[b.Name] = true
		if b.Local == (len(b.Addresses) > 0) {
			t.Errorf("split %q, backend %q is local: %v, with addresses %v", s.Name, b.Name, b.Local, b.Addresses)
		}
		for _, ip := range s.Service.Addresses {
			a, ok := b.Address(ip)
			if !b.Local && !ok {
				t.Errorf("split %q, backend %q has no address for %s", s.Name, b.Name, ip)
			}
			if a.IP.Is4In6() || a.IP.Zone() != "" || ip.Is4In6() || ip.Zone() != "" {
				t.Errorf("split %q, backend %q: %s for %s", s.Name, b.Name, a, ip)
			}
			if ip.IsUnspecified() && s.Mode != traffic.ModeProxy {
				t.Errorf("split %q: wildcard in mode %s", s.Name, s.Mode)
			}
			for _, a := range b.Living(ip) {
				end := ip.String() + " -> " + a.String()
				if ends[end] {
					t.Errorf("split %q: two backends, or one twice, at %s", s.Name, end)
				}
				ends[end] = true
			}
		}
	}
}

func checkHealth(t *testing.T, s traffic.Split) {
	t.Helper()
	h := s.Health
	if h.Interval <= 0 || h.Timeout <= 0 || h.Timeout > h.Interval || h.Fall < 1 || h.Rise < 1 || s.WhenDown == "" {
		t.Errorf("split %q: health %+v, when down %q", s.Name, h, s.WhenDown)
	}
	if !slices.Contains(traffic.Checks(), h.Check) || h.Check == traffic.CheckExec && (len(h.Command) == 0 || !filepath.IsAbs(h.Command[0])) {
		t.Errorf("split %q: check %q, command %q", s.Name, h.Check, h.Command)
	}
	if _, ok := s.CheckPort(traffic.Address{}); !ok && h.Check != traffic.CheckNone {
		t.Errorf("split %q: check %q finds no port", s.Name, h.Check)
	}
	if h.Query != "" {
		if _, _, err := traffic.ParseQuery(h.Query); err != nil {
			t.Errorf("split %q: %v", s.Name, err)
		}
	}
}

// checkDraw checks what the kernel is asked to hash, and what the slots say.
func checkDraw(t *testing.T, s traffic.Split) {
	t.Helper()
	p := s.AffinityPrefix
	if s.Affinity != traffic.AffinitySource {
		if p != (traffic.AffinityPrefix{}) || s.AffinitySeed != "" || len(s.Slots) > 0 {
			t.Errorf("split %q: without affinity it has %+v, %q, %v", s.Name, p, s.AffinitySeed, s.Slots)
		}
		return
	}
	if p.IPv4 < 8 || p.IPv4 > 32 || p.IPv4%8 != 0 || p.IPv6 < 8 || p.IPv6 > 128 || p.IPv6%8 != 0 {
		t.Errorf("split %q: prefixes %+v", s.Name, p)
	}
	if diff := cmp.Diff(s.Slots, s.Slots.Reweighed(s.Candidates), cmpopts.EquateEmpty()); len(s.Slots) > 0 && diff != "" {
		t.Errorf("split %q: its slots are not those of its weights (-slots +of the weights):\n%s", s.Name, diff)
	}
}

// checkGroups checks that no client is told two things.
func checkGroups(t *testing.T, s traffic.Split) {
	t.Helper()
	var always []netip.Prefix
	for _, c := range s.Candidates {
		own := slices.Concat(c.Clients.Always, c.Clients.Never)
		always = append(always, c.Clients.Always...)
		for _, list := range [][]netip.Prefix{own, always} {
			for i, network := range list {
				if network != network.Masked() || slices.ContainsFunc(list[:i], network.Overlaps) {
					t.Errorf("split %q, candidate %q: %s in %s", s.Name, c.Name, network, list)
				}
			}
		}
	}
	if m := s.Mirror; m.To.IsValid() && s.Mode != traffic.ModeKernel || !m.To.IsValid() && m.Sample != 0 {
		t.Errorf("split %q: mirror %+v", s.Name, m)
	}
}

// checkShadow checks what those who play flows to a candidate rely on.
func checkShadow(t *testing.T, s traffic.Split) {
	t.Helper()
	is := s.Shadow
	if is.FlowBudget < 128<<10 || is.FlowBudget > 1<<30 || is.Patience < 100*time.Millisecond || is.MaxFlows < 0 || !is.MinEffect.Valid() || is.MinEffect == traffic.Whole {
		t.Errorf("split %q: limits of its shadow %+v", s.Name, is)
	}
	if _, known := s.Candidate(is.To); !known && (is.To != "" || len(s.Candidates) == 1) {
		t.Errorf("split %q: shadowed to %q", s.Name, is.To)
	}
	if err := s.CheckSample(); err != nil && s.Sample > 0 || !s.Sample.Valid() {
		t.Errorf("split %q: sample %s: %v", s.Name, s.Sample, err)
	}
	mail := smtp.Options{Mode: smtp.Mode(is.Mode), Token: is.SinkToken}
	if mail.Check() != nil || (is.Mode == "") == (s.Protocol == "smtp") || is.SinkToken != "" && is.Mode != "sink" {
		t.Errorf("split %q, protocol %s: mode %q, token %q", s.Name, s.Protocol, is.Mode, is.SinkToken)
	}
	web := http1.Options{PrimaryHosts: is.PrimaryHosts, CandidateHosts: is.CandidateHosts, LoopGuard: is.LoopGuard}
	for _, text := range is.Allow {
		allow, err := http1.ParseAllow(text)
		if err != nil || s.Protocol != "http" {
			t.Errorf("split %q, protocol %s: allow %q: %v", s.Name, s.Protocol, text, err)
		}
		web.Allow = append(web.Allow, allow)
	}
	if err := web.Check(); err != nil {
		t.Errorf("split %q: %v", s.Name, err)
	}
	for _, text := range is.Ignore {
		if rule, err := shadow.ParseIgnore(text); err != nil || rule.String() != text {
			t.Errorf("split %q: ignore %q is %q: %v", s.Name, text, rule, err)
		}
	}
	if s.Mode == traffic.ModeProxy && s.Proxy.SendProxy != "" && is.Identity != traffic.Identity("proxy-"+s.Proxy.SendProxy) {
		t.Errorf("split %q: identity %q with send_proxy %s", s.Name, is.Identity, s.Proxy.SendProxy)
	}
}

// checkTLS checks that nobody has to guess whose certificate is good enough, and that each
// file has its place.
func checkTLS(t *testing.T, s traffic.Split, files []configs.FileAt) {
	t.Helper()
	is := s.Shadow.TLS
	places := 0
	for _, f := range files {
		if f.Split == s.Name && (f.At.Line < 1 || (f.CA == "") != (f.KeyAt.Line > 0) || !filepath.IsAbs(f.CA+f.Certificate.Cert) || !filepath.IsAbs(f.CA+f.Certificate.Key)) {
			t.Errorf("split %q: file %+v", s.Name, f)
		}
		if f.Split == s.Name {
			places++
		}
	}
	want := len(is.Certificates)
	for _, trust := range []traffic.Trust{is.ToPrimary, is.ToCandidate} {
		said := 0
		for _, does := range []bool{trust.System, trust.CA != "", len(trust.Pins) > 0, trust.Report} {
			if does {
				said++
			}
		}
		if is.On() && said != 1 || !is.On() && said != 0 || trust.Name != "" && (trust.Report || len(trust.Pins) > 0) {
			t.Errorf("split %q: trust %+v", s.Name, trust)
		}
		if trust.CA != "" {
			want++
		}
	}
	if places != want {
		t.Errorf("split %q: %d files with a place, want %d", s.Name, places, want)
	}
}
