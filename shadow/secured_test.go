package shadow_test

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/shadow"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// usual is a handshake of which nothing is to be said.
func usual() shadow.Handshake {
	return shadow.Handshake{
		Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256,
		Certificate: shadow.Shown{
			Names: []string{"www.example.com"}, Issuer: "CN=Some Root", Kind: "ECDSA P-256",
			Before: now.AddDate(0, 0, -30), After: now.AddDate(0, 0, 60),
		},
	}
}

// handshakes is a labelled pair.
type handshakes struct {
	name               string
	primary, candidate shadow.Handshake
	differs, noise     []string
	verdict            shadow.Verdict
}

func (p handshakes) judge() (differs, noise []string, verdict shadow.Verdict) {
	x := shadow.Secured(p.primary, p.candidate, now)
	for _, d := range shadow.Differences(x, shadow.SecuredNoise()) {
		if d.Excuse != "" {
			noise = append(noise, d.Path)
			continue
		}
		differs = append(differs, fmt.Sprintf("%s: %s -> %s", d.Path, d.Expected, d.Got))
	}
	return differs, noise, x.Verdict
}

func readHandshakes(t *testing.T) []handshakes {
	t.Helper()
	text, err := os.ReadFile("testdata/tls/handshakes.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []handshakes
	for line := range strings.SplitSeq(string(text), "\n") {
		if name, begins := strings.CutPrefix(line, "=== "); begins {
			all = append(all, handshakes{name: name, primary: usual(), candidate: usual()})
			continue
		}
		if line == "" {
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		p := &all[len(all)-1]
		switch key {
		case "both", "P", "N":
			if key != "N" {
				change(t, &p.primary, value)
			}
			if key != "P" {
				change(t, &p.candidate, value)
			}
		case "differs:":
			p.differs = append(p.differs, value)
		case "noise:":
			p.noise = append(p.noise, value)
		case "verdict:":
			p.verdict = shadow.Verdict(value)
		default:
			t.Fatalf("read %q: no such key", line)
		}
	}
	return all
}

func change(t *testing.T, h *shadow.Handshake, line string) {
	t.Helper()
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		value = strings.ReplaceAll(value, "_", " ")
		c := &h.Certificate
		switch key {
		case "version":
			h.Version = map[string]uint16{"1.0": tls.VersionTLS10, "1.2": tls.VersionTLS12}[value]
		case "cipher":
			h.Cipher = suite(t, strings.ReplaceAll(value, " ", "_"))
		case "alpn":
			h.Protocol = value
		case "names":
			c.Names = strings.FieldsFunc(value, func(r rune) bool { return r == ',' })
		case "issuer":
			c.Issuer = value
		case "key":
			c.Kind = value
		case "days", "from":
			days, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			if key == "days" {
				c.After = now.AddDate(0, 0, days)
			} else {
				c.Before = now.AddDate(0, 0, days)
			}
		case "distrust":
			c.Distrust = value
		case "fails":
			h.Failed = value
		case "resumed":
			h.Resumed = true
		default:
			t.Fatalf("read %q: no such key", word)
		}
	}
}

func suite(t *testing.T, name string) uint16 {
	t.Helper()
	for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if s.Name == name {
			return s.ID
		}
	}
	n, err := strconv.ParseUint(name, 0, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

func TestHandshakesThatDifferAreToldFromThoseThatDoNot(t *testing.T) {
	all := readHandshakes(t)
	if len(all) < 20 {
		t.Errorf("%d labelled pairs, want 20", len(all))
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			differs, noise, verdict := p.judge()
			if diff := cmp.Diff(p.differs, differs); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(p.noise, noise); diff != "" || verdict != p.verdict {
				t.Errorf("verdict %q, want %q; noise (-want +got):\n%s", verdict, p.verdict, diff)
			}
		})
	}
}

// planted are changes of a handshake, each by the path that it is to be found at.
func planted(g *rand.Rand) map[string]func(*shadow.Handshake) {
	return map[string]func(*shadow.Handshake){
		"version": func(h *shadow.Handshake) { h.Version = uint16(tls.VersionTLS10 + g.IntN(3)) },
		"cipher":  func(h *shadow.Handshake) { h.Cipher = uint16(g.IntN(1 << 12)) },
		"alpn":    func(h *shadow.Handshake) { h.Protocol = []string{"http/1.1", "h2", "smtp"}[g.IntN(3)] },
		"name": func(h *shadow.Handshake) {
			h.Certificate.Names = append([]string{"other.example.com"}, h.Certificate.Names[:g.IntN(2)]...)
		},
		"issuer": func(h *shadow.Handshake) { h.Certificate.Issuer = fmt.Sprintf("CN=Root %d", g.IntN(1000)) },
		"key":    func(h *shadow.Handshake) { h.Certificate.Kind = fmt.Sprintf("RSA %d", 1024<<g.IntN(3)) },
		"trust":  func(h *shadow.Handshake) { h.Certificate.Distrust = "it is of nobody" },
		"expiry": func(h *shadow.Handshake) { h.Certificate.After = now.AddDate(0, 0, g.IntN(20)-7) },
	}
}

// Of handshakes that differ in times alone, and in what is planted, exactly that is found.
func TestWhatIsPlantedInHandshakesIsFoundAndNothingElse(t *testing.T) {
	right, wrong, missed := 0, 0, 0
	for seed := range uint64(2000) {
		g := rand.New(rand.NewPCG(seed, 6))
		p := handshakes{primary: usual(), candidate: usual()}
		p.candidate.Certificate.After = now.AddDate(0, 0, 15+g.IntN(300))
		p.candidate.Began, p.candidate.Ended = now, now.Add(time.Duration(g.IntN(1e9)))
		p.candidate.Resumed = g.IntN(2) == 0
		var want []string
		changes := planted(g)
		for _, path := range slices.Sorted(slices.Values(shadow.SecuredPaths())) {
			plant := changes[path]
			if plant == nil || g.IntN(4) > 0 || path == "expiry" && slices.Contains(want, "expiry") {
				continue
			}
			plant(&p.candidate)
			want = append(want, path)
		}
		if slices.Contains(want, "version") { // the cipher follows it
			want = slices.DeleteFunc(want, func(path string) bool { return path == "cipher" })
		}
		differs, _, _ := p.judge()
		got := map[string]bool{}
		for _, line := range differs {
			path, _, _ := strings.Cut(line, ":")
			got[path] = true
		}
		for path := range got {
			if slices.Contains(want, path) {
				right++
			} else {
				wrong++
				t.Errorf("seed %d: %q is found, planted is %q", seed, path, want)
			}
		}
		for _, path := range want {
			if !got[path] {
				missed++
				t.Errorf("seed %d: %q is planted, found is %q", seed, path, differs)
			}
		}
	}
	t.Logf("precision and recall: %d right, %d wrong, %d missed", right, wrong, missed)
	if right < 1000 {
		t.Errorf("%d were planted: the test shows nothing", right)
	}
}

// A certificate can say anything.
func TestWhatIsToldOfACertificateIsBoundedAndClean(t *testing.T) {
	h := usual()
	long := strings.Repeat("x\x1b", 1<<16)
	for i := range 10_000 {
		h.Certificate.Names = append(h.Certificate.Names, fmt.Sprint(i)+long[:64])
	}
	h.Certificate.Issuer, h.Certificate.Kind, h.Certificate.Distrust, h.Protocol, h.ServerName, h.Protocols = long, long, long, long, long, []string{long}
	for _, failed := range []string{"", long} {
		h.Failed = failed
		x := shadow.Secured(usual(), h, now)
		total := len(x.Reason)
		for _, f := range slices.Concat(x.Candidate.Fields, x.Request) {
			total += len(f.Value)
			if strings.Contains(f.Value, "\x1b") {
				t.Errorf("%s has a sign that does not print", f.Path)
			}
		}
		if total > 64<<10 || strings.Contains(x.Reason, "\x1b") {
			t.Errorf("%d bytes are told, and %q", total, x.Reason)
		}
	}
}

// An inner driver notes what it hears.
type inner struct {
	heard []string
	does  map[string]shadow.Moves
}

func (d *inner) Hear(e shadow.Event) shadow.Moves {
	what := strings.TrimSpace(fmt.Sprint([]string{"client", "primary", "candidate"}[e.From], " ", string(e.Bytes), e.End))
	if e.TLS != nil {
		what += " TLS"
	}
	d.heard = append(d.heard, what)
	return d.does[what]
}

func (*inner) Held() int { return 7 }

func (*inner) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	return []shadow.Exchange{{Endpoint: "inner", Verdict: why, Reason: reason}}
}

func TestADriverInsideTLSHearsWhatItWouldInClear(t *testing.T) {
	secured, other, failed := usual(), usual(), shadow.Handshake{Failed: "no"}
	other.Protocol = "h2"
	primary := shadow.Event{From: shadow.Primary, TLS: &secured}
	h2 := shadow.Event{From: shadow.Primary, TLS: &other}
	told := func(all ...shadow.Exchange) []string {
		var lines []string
		for _, x := range all {
			lines = append(lines, strings.TrimSpace(fmt.Sprint(x.Endpoint, " ", x.Verdict, " ", x.Reason)))
		}
		return lines
	}
	request := shadow.Event{From: shadow.Client, Bytes: []byte("request")}
	for name, test := range map[string]struct {
		events []shadow.Event
		does   map[string]shadow.Moves
		heard  []string
		told   []string
	}{
		"secured": {
			[]shadow.Event{primary, request, {From: shadow.Candidate, TLS: &secured}, {From: shadow.Candidate, Bytes: []byte("reply")}},
			nil,
			[]string{"client request", "candidate", "candidate reply"},
			[]string{"TLS", "inner dropped over"},
		},
		"secured again, and not, for another connection": {
			[]shadow.Event{primary, request, {From: shadow.Candidate, TLS: &secured}, {From: shadow.Candidate, TLS: &secured}, {From: shadow.Candidate, TLS: &failed}, {From: shadow.Candidate, End: shadow.Unsecured}},
			nil,
			[]string{"client request", "candidate", "candidate", "candidate no TLS with it"},
			[]string{"TLS", "inner dropped over"},
		},
		"a handshake that fails": {
			[]shadow.Event{primary, request, {From: shadow.Candidate, TLS: &failed}, {From: shadow.Candidate, End: shadow.Unsecured}},
			nil,
			[]string{"client request", "candidate no TLS with it"},
			[]string{"TLS candidate_error the TLS handshake fails: no", "inner dropped over"},
		},
		"nobody there": {
			[]shadow.Event{primary, request, {From: shadow.Candidate, End: shadow.Refused}},
			nil,
			[]string{"client request", "candidate refused"},
			[]string{"TLS candidate_error there was no TLS handshake: refused", "inner dropped over"},
		},
		"none agreed, where the primary speaks HTTP/2": {
			[]shadow.Event{h2, request, {From: shadow.Candidate, TLS: &secured}},
			nil,
			[]string{"client request"},
			[]string{"TLS", "inner after_divergence the candidate speaks another protocol inside TLS (ALPN)"},
		},
		"another protocol inside": {
			[]shadow.Event{primary, request, {From: shadow.Candidate, TLS: &other}, {From: shadow.Candidate, Bytes: []byte("reply")}},
			nil,
			[]string{"client request"},
			[]string{"TLS", "inner after_divergence the candidate speaks another protocol inside TLS (ALPN)"},
		},
		"over before": {
			[]shadow.Event{primary, request},
			nil,
			[]string{"client request"},
			[]string{"TLS dropped over", "inner dropped over"},
		},
		"done before": {
			[]shadow.Event{primary, request},
			map[string]shadow.Moves{"client request": {Done: true, Exchanges: []shadow.Exchange{{Endpoint: "done"}}}},
			[]string{"client request"},
			[]string{"TLS skipped the flow was over before the handshake with the candidate was", "done", "inner dropped over"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &inner{does: test.does}
			i := shadow.Inside(d)
			var got []string
			for _, e := range test.events {
				m := i.Hear(e)
				got = append(got, told(m.Exchanges...)...)
				left := m.FIN && m.Done
				if e.TLS == &other && e.From == shadow.Candidate && !left {
					t.Errorf("who speaks another protocol is not left: %+v", m)
				}
			}
			if held := i.Held(); held <= 7 {
				t.Errorf("it holds %d bytes, and the handshake besides", held)
			}
			got = append(got, told(i.Stop(shadow.Dropped, "over")...)...)
			if diff := cmp.Diff(test.heard, d.heard, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the driver hears (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.told, got); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		})
	}
}
