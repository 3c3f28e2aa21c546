package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/certs"
)

// web is seen into, as is mx; blind has no certificates.
const tlsConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: web
    service: {addresses: [10.1.0.1], ports: [8443/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:8444"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:8444"], weight: 0%%}
    health: {check: none}
    shadow:
      sample: 100%%
      patience: 2s
      control: none
      tls: {certificates: [{cert: %[1]s/service.crt, key: %[1]s/service.key}], to_primary: {ca: %[1]s/ca.crt}, to_candidate: {ca: %[1]s/ca.crt}}
  - name: mx
    service: {addresses: [10.1.0.1], ports: [2525/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:2526"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:2526"], weight: 0%%}
    health: {check: none}
    shadow:
      sample: 100%%
      patience: 2s
      control: none
      tls: {certificates: [{cert: %[1]s/service.crt, key: %[1]s/service.key}], to_primary: {ca: %[1]s/ca.crt}, to_candidate: {ca: %[1]s/ca.crt}}
  - name: blind
    service: {addresses: [10.1.0.1], ports: [9443/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:8444"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:8444"], weight: 0%%}
    health: {check: none}
    shadow: {sample: 100%%, control: none}
`

// issuer signs certificates of a test.
type issuer struct {
	t   *testing.T
	own tls.Certificate
}

func newIssuer(t *testing.T, name string) *issuer {
	t.Helper()
	own, err := certs.Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, own}
}

// issue makes a certificate of some names that is good for so long.
func (i *issuer) issue(life time.Duration, names ...string) tls.Certificate {
	i.t.Helper()
	signed, err := certs.Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
	}, &i.own, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	return signed
}

func (i *issuer) roots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(i.own.Leaf)
	return roots
}

// keyText is a key as its file has it.
func keyText(t *testing.T, of tls.Certificate) []byte {
	t.Helper()
	text, err := certs.KeyPEM(of)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// A vault is a lab whose services are inside TLS.
type vault struct {
	*lab
	issuer   *issuer
	service  tls.Certificate // what splitd has
	old      *mailer
	sessions tls.ClientSessionCache
}

// emptyVault has certificates, and no server yet.
func emptyVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{lab: newLab(t), issuer: newIssuer(t, "Test Root"), sessions: tls.NewLRUClientSessionCache(8)}
	v.write("ca.crt", certs.PEM(v.issuer.own))
	v.serveWith(1000 * time.Hour)
	return v
}

// newVault starts splitd before two servers, which have certificates of their own.
func newVault(t *testing.T, newWeb, newMail func(*vault) func(net.Conn)) *vault {
	t.Helper()
	v := emptyVault(t)
	v.old = &mailer{name: "old.example", tls: v.backend()}
	v.router.Serve("tcp4", "127.0.0.1:2526", v.old.serve)
	v.router.Serve("tcp4", "127.0.0.1:8444", v.inside(v.backend(), shop("")))
	if newWeb != nil {
		v.host.Serve("tcp4", "10.2.0.2:8444", newWeb(v))
	}
	if newMail != nil {
		v.host.Serve("tcp4", "10.2.0.2:2526", newMail(v))
	}
	v.configure(tlsConfig)
	v.start()
	return v
}

// backend is what a server of the service's name has.
func (v *vault) backend() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{v.issuer.issue(1000*time.Hour, "shop.example", "mx.example")}}
}

// inside has a server speak inside TLS.
func (v *vault) inside(config *tls.Config, serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) { serve(tls.Server(c, config)) }
}

func (v *vault) write(name string, text []byte) {
	v.t.Helper()
	// As certbot does: a file is there whole, or not at all.
	path := filepath.Join(v.dir, name)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		v.t.Fatal(err)
	}
}

// serveWith gives splitd another certificate, which is good for so long.
func (v *vault) serveWith(life time.Duration) {
	v.t.Helper()
	v.service = v.issuer.issue(life, "shop.example", "mx.example")
	v.write("service.key", keyText(v.t, v.service))
	v.write("service.crt", certs.PEM(v.service))
}

func (v *vault) trusting(name string) *tls.Config {
	return &tls.Config{RootCAs: v.issuer.roots(), ServerName: name, ClientSessionCache: v.sessions}
}

// plain opens a connection from the client.
func (v *vault) plain(address string) net.Conn {
	v.t.Helper()
	var c net.Conn
	v.client.Do(func() (err error) { c, err = net.DialTimeout("tcp", address, 3*time.Second); return err })
	v.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// browse gets a path, and returns the body and what was agreed upon.
func (v *vault) browse(address, path string) (string, tls.ConnectionState) {
	v.t.Helper()
	c := tls.Client(v.plain(address), v.trusting("shop.example"))
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", path); err != nil {
		v.t.Fatalf("ask %s for %s: %v", address, path, err)
	}
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			v.t.Fatalf("read the answer of %s to %s: %v", address, path, err)
		}
		if line == "\r\n" {
			break
		}
	}
	body := make([]byte, len(`{"price":100}`))
	if _, err := io.ReadFull(r, body); err != nil {
		v.t.Fatal(err)
	}
	return string(body), c.ConnectionState()
}

// post sends a mail by STARTTLS, and returns what the client was told inside.
func (v *vault) post() (told []string, state tls.ConnectionState) {
	v.t.Helper()
	c := v.plain("10.1.0.1:2525")
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		v.t.Fatalf("read the greeting: %v", err)
	}
	said := strings.Join(v.say(c, r, "EHLO client.example", "STARTTLS"), "\n")
	if !strings.Contains(said, "STARTTLS") || !strings.Contains(said, "go on") {
		v.t.Fatalf("a client is told\n%s", said)
	}
	inside := tls.Client(c, v.trusting("mx.example"))
	told = v.say(inside, bufio.NewReader(inside), mail...)
	return told, inside.ConnectionState()
}

// byUs says whether splitd has stood in for the service.
func (v *vault) byUs(s tls.ConnectionState) bool {
	return len(s.PeerCertificates) > 0 && bytes.Equal(s.PeerCertificates[0].Raw, v.service.Certificate[0])
}

// isSeen waits until the primary is known, and flows are seen into.
func (v *vault) isSeen() {
	v.t.Helper()
	v.eventually("web is seen into", func() bool { _, s := v.browse("10.1.0.1:8443", "/a"); return v.byUs(s) })
	v.eventually("mx is seen into", func() bool { _, s := v.post(); return v.byUs(s) })
}

func TestWhatIsSaidInsideTLSIsComparedAndNoClientNotices(t *testing.T) {
	new := &mailer{name: "new.example", answers: map[string]string{"RCPT TO:<bob@example.com>": "550 5.1.1 User unknown"}}
	v := newVault(t,
		func(v *vault) func(net.Conn) {
			old := v.backend()
			old.MaxVersion = tls.VersionTLS12
			return v.inside(old, shop("/b"))
		},
		func(v *vault) func(net.Conn) { new.tls = v.backend(); return new.serve })
	v.isSeen()
	const each = 10
	for range each {
		for _, path := range []string{"/a", "/b"} {
			if body, s := v.browse("10.1.0.1:8443", path); body != `{"price":100}` || !v.byUs(s) || s.Version != tls.VersionTLS13 {
				t.Fatalf("a client was told %s by %v of version %x", body, s.PeerCertificates[0].Subject, s.Version)
			}
		}
		told, s := v.post()
		if text := strings.Join(told, "\n"); strings.Contains(text, "new") || strings.Contains(text, "550") || strings.Contains(text, "STARTTLS") || !strings.Contains(text, "queued") || !v.byUs(s) {
			t.Fatalf("a client was told\n%s", text)
		}
	}
	v.eventually("the requests are compared", func() bool { return v.shadowed("web").has("GET /b body $.price class", each) })
	v.eventually("the mails are compared", func() bool { return v.shadowed("mx").has("RCPT code value", each) })
	web, mx := v.shadowed("web"), v.shadowed("mx")
	if diff := cmp.Diff([]string{"GET /b body $.price class", "TLS version value"}, web.kinds()); diff != "" {
		t.Errorf("differences of web (-want +got):\n%s\n%+v", diff, web)
	}
	if diff := cmp.Diff([]string{"RCPT code value"}, mx.kinds()); diff != "" {
		t.Errorf("differences of mx (-want +got):\n%s\n%+v", diff, mx)
	}
	if new.sent("DATA") > 0 || new.sent("secret") > 0 || new.sent("RCPT") < 2*each {
		t.Errorf("the new host was sent %q", new.heard)
	}
	if show := v.ok("show", "web").stdout; !strings.Contains(show, "inside TLS") || !strings.Contains(show, "passed on unseen: the primary's TLS is not known yet") {
		t.Errorf("show says\n%s", show)
	}
	v.holdsNoKey()
}

// has says whether a difference was found so often.
func (r shadowReport) has(what string, times int64) bool {
	return slices.ContainsFunc(r.list(), func(line string) bool {
		var n int64
		at := strings.LastIndexByte(line, ' ')
		_, err := fmt.Sscan(line[at:], &n)
		return err == nil && line[:at] == what && n >= times
	})
}

// kinds are the differences without how often they were found.
func (r shadowReport) kinds() []string {
	kinds := r.list()
	for i, line := range kinds {
		kinds[i] = line[:strings.LastIndexByte(line, ' ')]
	}
	slices.Sort(kinds)
	return kinds
}

// holdsNoKey wants the service's private key to be nowhere but in its file: not in what
// splitd says, nor in what it keeps.
func (v *vault) holdsNoKey() {
	v.t.Helper()
	scalar, err := v.service.PrivateKey.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		v.t.Fatal(err)
	}
	secrets := map[string][]byte{
		"its bytes": scalar, "hex": []byte(hex.EncodeToString(scalar)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(scalar))),
		"base64": []byte(base64.RawStdEncoding.EncodeToString(scalar)), "base64 for URLs": []byte(base64.RawURLEncoding.EncodeToString(scalar)),
		"decimal": []byte(new(big.Int).SetBytes(scalar).String()),
	}
	lines := strings.Split(strings.TrimSpace(string(keyText(v.t, v.service))), "\n")
	for _, line := range lines[1 : len(lines)-1] {
		secrets["a line of PEM: "+line] = []byte(line)
	}
	places := map[string][]byte{"the log": []byte(v.log.String())}
	for _, split := range []string{"web", "mx"} {
		for _, format := range []string{"table", "json", "html", "markdown"} {
			places["report "+split+" "+format] = []byte(v.ok("report", split, "-o", format).stdout)
		}
		places["show "+split] = []byte(v.ok("show", split, "-o", "json").stdout)
	}
	for _, words := range [][]string{{"status"}, {"plan"}, {"history"}} {
		places[words[0]] = []byte(v.ok(words...).stdout)
	}
	v.stop() // what is kept in memory is on the disk now
	err = filepath.WalkDir(filepath.Join(v.dir, "state"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		places[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		v.t.Fatal(err)
	}
	if len(places) < 12 {
		v.t.Errorf("only %d places were looked at", len(places))
	}
	for where, text := range places {
		for what, secret := range secrets {
			if bytes.Contains(text, secret) {
				v.t.Errorf("%s has the private key: %s", where, what)
			}
		}
	}
}

func TestWithoutCertificatesFlowsInTLSGoOnUntouchedAndAreOpaque(t *testing.T) {
	v := newVault(t, func(v *vault) func(net.Conn) { return v.inside(v.backend(), shop("")) }, nil)
	const visits = 5
	for range visits {
		if body, s := v.browse("10.1.0.1:9443", "/a"); body != `{"price":100}` || v.byUs(s) {
			t.Fatalf("a client was told %s, by %v", body, s.PeerCertificates[0].Subject)
		}
	}
	v.eventually("they are counted", func() bool { return v.shadowed("blind").Coverage["opaque"] == visits })
}

// The kernel has most flows; those of the sample are seen into.
func TestInModeKernelTheSampleIsSeenIntoToo(t *testing.T) {
	v := emptyVault(t)
	v.router.Serve("tcp4", service4+":8443", v.inside(v.backend(), shop("")))
	v.host.Serve("tcp4", host4+":8443", v.inside(v.backend(), shop("/b")))
	v.configure(`
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: web
    service: {addresses: [192.0.2.25], ports: [8443/tcp]}
    protocol: http
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.2.0.2], weight: 0%%}
    return: gateway
    health: {check: none}
    shadow:
      sample: 100%%
      control: none
      tls: {certificates: [{cert: %[1]s/service.crt, key: %[1]s/service.key}], to_primary: {ca: %[1]s/ca.crt}, to_candidate: {ca: %[1]s/ca.crt}}
`)
	v.start()
	const address = service4 + ":8443"
	v.eventually("it is seen into", func() bool { _, s := v.browse(address, "/a"); return v.byUs(s) })
	const each = 5
	for range each {
		if body, s := v.browse(address, "/b"); body != `{"price":100}` || !v.byUs(s) {
			t.Fatalf("a client was told %s, by %v", body, s.PeerCertificates[0].Subject)
		}
	}
	v.eventually("the requests are compared", func() bool { return v.shadowed("web").has("GET /b body $.price class", each) })
	if diff := cmp.Diff([]string{"GET /b body $.price class"}, v.shadowed("web").kinds()); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	v.ok("shadow", "web", "0%")
	v.eventually("without a sample nobody stands in", func() bool { _, s := v.browse(address, "/a"); return !v.byUs(s) })
}

// alike are a web and a mail server that answer as the primaries do.
func alike(t *testing.T) *vault {
	t.Helper()
	return newVault(t,
		func(v *vault) func(net.Conn) { return v.inside(v.backend(), shop("")) },
		func(v *vault) func(net.Conn) { return (&mailer{name: "old.example", tls: v.backend()}).serve })
}

func TestACertificateThatIsRenewedIsServedWithoutARestart(t *testing.T) {
	v := alike(t)
	v.isSeen()
	first := v.service
	v.serveWith(24 * time.Hour)
	v.eventually("the new one is served", func() bool {
		v.sessions = tls.NewLRUClientSessionCache(1) // a resumed session has the certificate of its first handshake
		_, s := v.browse("10.1.0.1:8443", "/a")
		return v.byUs(s)
	})
	v.eventually("status says that it expires", func() bool {
		return strings.Contains(v.ok("status").stderr+v.ok("status").stdout, filepath.Join(v.dir, "service.crt"))
	})
	v.write("service.key", keyText(t, first)) // which does not fit
	v.eventually("status names the file", func() bool {
		v.browse("10.1.0.1:8443", "/a")
		text := v.ok("status").stderr + v.ok("status").stdout
		return strings.Contains(text, filepath.Join(v.dir, "service.key"))
	})
	v.sessions = tls.NewLRUClientSessionCache(1)
	if _, s := v.browse("10.1.0.1:8443", "/a"); !v.byUs(s) {
		t.Error("the pair that fitted is not served any more")
	}
}

func TestClientsResumeTheirSessionsOverARestart(t *testing.T) {
	v := alike(t)
	v.isSeen()
	v.stop()
	v.start()
	v.eventually("a session goes on", func() bool {
		_, s := v.browse("10.1.0.1:8443", "/a")
		return v.byUs(s) && s.DidResume
	})
	keys, err := os.Stat(filepath.Join(v.dir, "state", "tickets.key"))
	if err != nil || keys.Mode().Perm() != 0o600 {
		t.Errorf("the tickets' keys: %v, %v", keys, err)
	}
}

func TestWhoHasKeysLeavesNoCore(t *testing.T) {
	v := newVault(t, nil, nil)
	proc := fmt.Sprintf("/proc/%d/", v.daemon.Process.Pid)
	limits, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if fields := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (fields[4] != "0" || fields[5] != "0") {
			t.Errorf("the limit is %q", line)
		}
	}
	filter, err := os.ReadFile(proc + "coredump_filter")
	if err != nil || strings.Trim(string(filter), "0\n") != "" {
		t.Errorf("a dump would have %q, %v", filter, err)
	}
}
