package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/netfilter/doctor"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// pairOfFiles writes a certificate, of example.com until 2084, and its key.
func pairOfFiles(t *testing.T) traffic.Certificate {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	pair := server.TLS.Certificates[0]
	server.Close()
	key, err := certs.KeyPEM(pair)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := traffic.Certificate{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for name, text := range map[string][]byte{c.Cert: certs.PEM(pair), c.Key: key} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// inTLS is a file with the split mx, whose sample is seen into by a pair of files.
func inTLS(t *testing.T, c traffic.Certificate, weight int) (string, configs.Definition) {
	t.Helper()
	text := fmt.Sprintf(`splits:
- name: mx
  service: {addresses: [192.0.2.25], ports: [25/tcp]}
  protocol: smtp
  primary: {name: old, addresses: [local]}
  candidates: [{name: new, addresses: [10.0.0.12], weight: %d%%}]
  shadow: {tls: {certificates: [{cert: %q, key: %q}], to_primary: system, to_candidate: accept}}
`, weight, c.Cert, c.Key)
	definition, err := configs.ParseDefinition("a.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return text, definition
}

func TestAnApplyWithAPairThatCannotBeServedChangesNothing(t *testing.T) {
	w := newWorld(t)
	c := pairOfFiles(t)
	_, w.files = inTLS(t, c, 5)
	d := w.mustBoot()
	_, w.files = inTLS(t, c, 7)
	if err := os.Chmod(c.Key, 0o604); err != nil {
		t.Fatal(err)
	}
	_, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
	found, ok := errors.AsType[configs.Errors](err)
	if !ok || len(found) != 1 || found[0].Line != 7 || !strings.Contains(found[0].Message, c.Key) {
		t.Errorf("apply with a key that others can read: %v", err)
	}
	if got := w.kernel.weight("mx"); got != percent(5) {
		t.Errorf("the kernel has %s after an apply that was refused", got)
	}
	if err := os.Chmod(c.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil || w.kernel.weight("mx") != percent(7) {
		t.Errorf("apply with a key that is mended: %v; the kernel has %s", err, w.kernel.weight("mx"))
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// It was right when it was written down, and the apply may be about something else.
func TestAnApplyWithACertificateThatIsOverWarns(t *testing.T) {
	w := newWorld(t)
	c := pairOfFiles(t)
	_, w.files = inTLS(t, c, 5)
	d := w.mustBoot()
	w.now = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	_, w.files = inTLS(t, c, 4)
	answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
	over := func(text string) bool { return strings.Contains(text, "the certificate has expired on 2084-") }
	if err != nil || !slices.ContainsFunc(answer.Warnings, over) || w.kernel.weight("mx") != percent(4) {
		t.Errorf("apply: %v, warnings %q; the kernel has %s", err, answer.Warnings, w.kernel.weight("mx"))
	}
	if !slices.Equal(answer.FilesReadAgain, []string{"mx"}) {
		t.Errorf("files are read again of %q", answer.FilesReadAgain)
	}
	if plan, err := d.Plan(t.Context()); err != nil || !slices.ContainsFunc(plan.Notes, over) {
		t.Errorf("plan: %v, notes %q", err, plan.Notes)
	}
}

// What is in force is worth more than what a shadow could see.
func TestAStartServesWhateverBecameOfTheCertificates(t *testing.T) {
	for name, ruin := range map[string]func(w *world, c traffic.Certificate){
		"over":            func(w *world, _ traffic.Certificate) { w.now = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) },
		"gone":            func(w *world, c traffic.Certificate) { w.must(os.Remove(c.Cert)) },
		"the key is open": func(w *world, c traffic.Certificate) { w.must(os.Chmod(c.Key, 0o644)) },
		"another's key":   func(w *world, c traffic.Certificate) { w.must(os.WriteFile(c.Key, nil, 0o600)) },
	} {
		for _, sent := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, sent by apply -f: %v", name, sent), func(t *testing.T) {
				w := newWorld(t)
				c := pairOfFiles(t)
				text, definition := inTLS(t, c, 5)
				if !sent {
					w.files = definition
				}
				first := w.mustBoot()
				if sent {
					if _, err := first.Apply(t.Context(), control.Actor{}, api.ApplyRequest{Name: "a.yaml", Text: text}); err != nil {
						t.Fatal(err)
					}
				}
				if err := first.stop(); err != nil {
					t.Fatal(err)
				}
				ruin(w, c)
				var log safeText
				d, err := w.bootWith(func(d *Daemon) { d.log = slog.New(slog.NewTextHandler(&log, nil)) })
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = d.stop() })
				if w.kernel.weight("mx") != percent(5) || !strings.Contains(log.String(), "certificates of a shadow") {
					t.Errorf("the kernel has %s; the log says\n%s", w.kernel.weight("mx"), log.String())
				}
			})
		}
	}
}

// Its group may change weights; that is no right to every key that splitd can read.
func TestWhoMayNotReadAKeyMayNotNameIt(t *testing.T) {
	w := newWorld(t, mx(percent(5)))
	d := w.mustBoot()
	c := pairOfFiles(t)
	text, _ := inTLS(t, c, 5)
	request := api.ApplyRequest{Name: "a.yaml", Text: text}
	member := control.Actor{User: "ann", UID: 1234}
	_, err := d.Apply(t.Context(), member, request)
	if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeForbidden || !strings.Contains(refusal.Message, c.Key) {
		t.Fatalf("a member of the group names a key: %v", err)
	}
	if _, err := d.Apply(t.Context(), control.Actor{User: "splitd", UID: d.options.UID}, request); err != nil {
		t.Fatalf("the daemon's own user names it: %v", err)
	}
	if _, err := d.Apply(t.Context(), member, api.ApplyRequest{Name: "a.yaml", Text: strings.Replace(text, "weight: 5%", "weight: 4%", 1)}); err != nil {
		t.Errorf("a member sends again what the split has: %v", err)
	}
	for was, is := range map[string]string{
		"to_candidate: accept":   "to_candidate: system",
		"addresses: [10.0.0.12]": "addresses: [10.0.0.13]",
		"to_primary: system,":    "to_primary: accept,",
		"shadow: {":              "shadow: {samples: full, ",
	} {
		changed := strings.Replace(text, was, is, 1)
		if changed == text {
			t.Fatalf("there is no %q", was)
		}
		_, err := d.Apply(t.Context(), member, api.ApplyRequest{Name: "a.yaml", Text: changed})
		if refusal, ok := errors.AsType[*api.Error](err); !ok || refusal.Code != api.CodeForbidden {
			t.Errorf("a member says %q of what is seen inside TLS: %v", is, err)
		}
	}
	other := strings.ReplaceAll(strings.Replace(text, "name: mx", "name: other", 1), "192.0.2.25", "192.0.2.26")
	if _, err := d.Apply(t.Context(), member, api.ApplyRequest{Name: "a.yaml", Text: other}); err == nil {
		t.Error("a member has another split use the key")
	}
	for _, less := range []string{strings.Replace(text, "shadow: {", "shadow: {sample: 3%, ", 1), text[:strings.Index(text, "  shadow:")]} {
		if _, err := d.Apply(t.Context(), member, api.ApplyRequest{Name: "a.yaml", Text: less}); err != nil {
			t.Errorf("a member says how much is sampled, or that nothing is seen into: %v\n%s", err, less)
		}
	}
}

func TestDoctorIsToldWhatIsWrongWithCertificates(t *testing.T) {
	w := newWorld(t)
	c := pairOfFiles(t)
	_, w.files = inTLS(t, c, 0)
	web := mx(0)
	web.Name = "web"
	w.files.Splits = append(w.files.Splits, web)
	d := w.mustBoot()
	w.must(os.Remove(c.Key))
	if _, err := d.Doctor(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []doctor.Shadow{
		{Split: "mx", SeenInto: true, Broken: []string{fmt.Sprintf(`split "mx": shadow.tls.certificates[0].key: load key %q: no such file or directory on this host`, c.Key)}},
		{Split: "web"},
	}
	if diff := cmp.Diff(want, w.kernel.shadows); diff != "" {
		t.Errorf("doctor is asked about (-want +got):\n%s", diff)
	}
}

// Whoever renews a certificate by halves has until the old one's end.
func TestDoctorIsToldThatThePairFromBeforeGoesOn(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	w := newWorld(t, insideSplit(t, old, secureSite(t, `{"n":1}`)))
	w.now = time.Now()
	d := w.mustBoot()
	nettest.Eventually(t, "files are read", func() bool { return d.shadows.find("web").inside.made.Load() != nil })
	key := w.files.Splits[0].Shadow.TLS.Certificates[0].Key
	w.must(os.WriteFile(key, nil, 0o600))
	d.shadows.reload()
	want := []string{fmt.Sprintf(`split "web": shadow.tls.certificates[0].key: load key %q: there is no private key in it: it has to be in PEM, and begins with -----BEGIN PRIVATE KEY----- or -----BEGIN EC PRIVATE KEY-----; the pair from before goes on until it expires on 2084-01-29 16:00 UTC, or splitd ends; from then on:`, key)}
	var broken []string
	nettest.Eventually(t, "doctor is told", func() bool {
		if _, err := d.Doctor(t.Context()); err != nil {
			t.Fatal(err)
		}
		broken = w.kernel.shadows[0].Broken
		return slices.Equal(broken, want)
	}, func() any { return broken })
}

func TestDoctorIsToldHowMuchIsEncrypted(t *testing.T) {
	w := newWorld(t, shadowedSplit("web", website(t, `{"n":1}`), traffic.Whole))
	d := w.mustBoot()
	visit(d, "web")
	awaitCompared(t, d, 1)
	tap := d.shadows.tee.Open(splitter.Opened{
		BackendKey: traffic.BackendKey{Split: "web", Backend: "old"},
		Client:     netip.MustParseAddrPort("127.0.0.9:4001"), Service: netip.MustParseAddrPort("127.0.0.1:8080"), Server: netip.MustParseAddrPort("127.0.0.2:8080"),
	})
	_ = tap.Take(splitter.Chunk{FromClient: true, Bytes: []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), At: time.Now()})
	tap.End(splitter.Ended{End: "closed", At: time.Now()})
	nettest.Eventually(t, "the encrypted flow is counted", func() bool { return reportFrom(t, d, "").Cover.Opaque == 1 })
	if _, err := d.Doctor(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]doctor.Shadow{{Split: "web", Encrypted: 1, EncryptedOf: 2}}, w.kernel.shadows); diff != "" {
		t.Errorf("doctor is asked about (-want +got):\n%s", diff)
	}
}
