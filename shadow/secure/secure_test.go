package secure

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/traffic"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func now() time.Time { return began }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return key
}

// signed makes a certificate by an authority, or one that is its own.
func signed(t *testing.T, by *tls.Certificate, key crypto.Signer, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	made := &x509.Certificate{
		Subject: pkix.Name{CommonName: "backend"}, DNSNames: []string{"b.test", "a.test"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)},
		NotBefore: began.Add(-time.Hour), NotAfter: began.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(made)
	}
	c, err := certs.Sign(made, by, key)
	check(t, err)
	if by != nil {
		c.Certificate = append(c.Certificate, by.Certificate...)
	}
	return c
}

func rootOf(t *testing.T) tls.Certificate {
	t.Helper()
	return signed(t, nil, newKey(t), func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid, c.ExtKeyUsage = "authority", true, true, nil
	})
}

// roots writes the file of an authority.
func roots(t *testing.T, a tls.Certificate) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.crt")
	check(t, os.WriteFile(file, certs.PEM(a), 0o600))
	return file
}

// open opens TLS to a backend with a configuration.
func open(t *testing.T, config *tls.Config, asked shadow.Handshake, trust traffic.Trust, demand bool) (shadow.Handshake, tls.ConnectionState, error) {
	t.Helper()
	v, err := NewVerifier(trust, now)
	check(t, err)
	door, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer func() { _ = door.Close() }()
	ours, err := net.Dial("tcp", door.Addr().String())
	check(t, err)
	theirs, err := door.Accept()
	check(t, err)
	served := make(chan tls.ConnectionState, 1)
	go func() {
		server := tls.Server(theirs, config)
		_ = server.Handshake()
		served <- server.ConnectionState()
		_ = theirs.Close()
	}()
	_, h, err := Open(context.Background(), ours, asked, v, demand)
	_ = ours.Close()
	return h, <-served, err
}

// anything is a client that asks for TLS 1.2 or 1.3.
func anything(name string) shadow.Handshake {
	return shadow.Handshake{ServerName: name, Least: tls.VersionTLS12, Most: tls.VersionTLS13}
}

func TestABackendIsAskedForWhatTheClientHasAskedFor(t *testing.T) {
	a := rootOf(t)
	var heard *tls.ClientHelloInfo
	config := &tls.Config{Certificates: []tls.Certificate{signed(t, &a, newKey(t), nil)}, NextProtos: []string{"two"}, Time: now}
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { heard = h; return nil, nil }
	asked := shadow.Handshake{
		ServerName: "a.test", Protocols: []string{"one", "two"}, Least: tls.VersionTLS11, Most: tls.VersionTLS12,
		Ciphers: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	}
	h, state, err := open(t, config, asked, traffic.Trust{CA: roots(t, a)}, true)
	check(t, err)
	if diff := cmp.Diff([]any{asked.ServerName, []string(asked.Protocols), []uint16{tls.VersionTLS12, tls.VersionTLS11}, asked.Ciphers}, []any{heard.ServerName, heard.SupportedProtos, heard.SupportedVersions, heard.CipherSuites}); diff != "" {
		t.Error(diff)
	}
	want := asked
	want.Version, want.Cipher, want.Protocol, want.Began, want.Ended = tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "two", began, began
	want.Certificate = h.Certificate
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	if state.Version != h.Version || state.CipherSuite != h.Cipher {
		t.Errorf("the backend has agreed to %x, %x", state.Version, state.CipherSuite)
	}
}

func TestWhatABackendShowsIsTold(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	for kind, key := range map[string]crypto.Signer{"ECDSA P-256": newKey(t), "RSA 2048": rsaKey, "Ed25519": edKey} {
		c := signed(t, nil, key, nil)
		h, _, err := open(t, &tls.Config{Certificates: []tls.Certificate{c}}, anything("a.test"), traffic.Trust{Report: true}, true)
		check(t, err)
		want := shadow.Shown{Names: []string{"192.0.2.1", "a.test", "b.test"}, Issuer: "CN=backend", Before: c.Leaf.NotBefore, After: c.Leaf.NotAfter, Key: pin(c.Leaf), Kind: kind, Distrust: h.Certificate.Distrust}
		if diff := cmp.Diff(want, h.Certificate); diff != "" {
			t.Error(diff)
		}
	}
}

func TestABackendIsTrustedByTheUsersChoice(t *testing.T) {
	a, other := rootOf(t), rootOf(t)
	good := signed(t, &a, newKey(t), nil)
	expired := signed(t, &a, newKey(t), func(c *x509.Certificate) { c.NotAfter = began.Add(-time.Minute) })
	early := signed(t, &a, newKey(t), func(c *x509.Certificate) { c.NotBefore = began.Add(time.Minute) })
	strange := signed(t, &a, newKey(t), func(c *x509.Certificate) { c.DNSNames = []string{"strange.test"} })
	over := signed(t, &a, newKey(t), func(c *x509.Certificate) {
		c.NotAfter, c.IsCA, c.BasicConstraintsValid, c.KeyUsage = began.Add(-time.Minute), true, true, x509.KeyUsageCertSign
	})
	under := signed(t, &over, newKey(t), nil)
	pinned := traffic.Trust{Pins: []string{"AAAA", pin(good.Leaf)}}
	for name, c := range map[string]struct {
		shows tls.Certificate
		trust traffic.Trust
		asks  string
		wrong string
	}{
		"an authority":      {good, traffic.Trust{CA: roots(t, a)}, "a.test", ""},
		"another authority": {good, traffic.Trust{CA: roots(t, other)}, "a.test", "unknown authority"},
		"the host's":        {good, traffic.Trust{System: true}, "a.test", "unknown authority"},
		"another name":      {good, traffic.Trust{CA: roots(t, a)}, "c.test", "not c.test"},
		"no name, and the service has one of the backend's": {good, traffic.Trust{CA: roots(t, a)}, "", ""},
		"no name, and the service has others":               {strange, traffic.Trust{CA: roots(t, a)}, "", "not www.test"},
		"a name that is stated":                             {good, traffic.Trust{CA: roots(t, a), Name: "b.test"}, "c.test", ""},
		"another name that is stated":                       {good, traffic.Trust{CA: roots(t, a), Name: "c.test"}, "a.test", "not c.test"},
		"expired":                                           {expired, traffic.Trust{CA: roots(t, a)}, "a.test", "its certificate is not trusted: it has expired"},
		"not valid yet":                                     {early, traffic.Trust{CA: roots(t, a)}, "a.test", "its certificate is not trusted: it is not valid yet"},
		"under an authority that is over":                   {under, traffic.Trust{CA: roots(t, a)}, "a.test", "its certificate is not trusted: one that it is signed by has expired"},
		"pinned":                                            {good, pinned, "c.test", ""},
		"pinned, another":                                   {expired, pinned, "a.test", "none of those that are pinned"},
		"pinned, time does not matter":                      {expired, traffic.Trust{Pins: []string{pin(expired.Leaf)}}, "a.test", ""},
		"pinned, a key of the chain's rest":                 {good, traffic.Trust{Pins: []string{pin(a.Leaf)}}, "a.test", "none of those that are pinned"},
	} {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{Certificates: []tls.Certificate{c.shows}}
			asked := anything(c.asks)
			asked.Certificate.Names = []string{"b.test", "www.test"}
			h, _, err := open(t, config, asked, c.trust, true)
			if c.wrong == "" {
				if err != nil || h.Failed != "" || h.Version != tls.VersionTLS13 {
					t.Errorf("%v, %q", err, h.Failed)
				}
				return
			}
			if !errors.Is(err, ErrUntrusted) || !strings.Contains(h.Failed, c.wrong) || h.Version != 0 {
				t.Errorf("%v, %q", err, h.Failed)
			}
			if h.Certificate.Key != pin(c.shows.Leaf) || h.Certificate.Distrust != "" {
				t.Errorf("what it has shown is not told: %+v", h.Certificate)
			}
		})
	}
}

func TestWhoTakesAnyCertificateIsToldWhatIsWrong(t *testing.T) {
	h, _, err := open(t, &tls.Config{Certificates: []tls.Certificate{signed(t, nil, newKey(t), nil)}}, anything("c.test"), traffic.Trust{Report: true}, true)
	if err != nil || h.Failed != "" || !strings.Contains(h.Certificate.Distrust, "c.test") {
		t.Errorf("%v, %+v", err, h)
	}
}

func TestWhoTakesAnyCertificateIsToldInWordsThatItIsOver(t *testing.T) {
	a := rootOf(t)
	expired := signed(t, &a, newKey(t), func(c *x509.Certificate) { c.NotAfter = began.Add(-time.Minute) })
	h, _, err := open(t, &tls.Config{Certificates: []tls.Certificate{expired}}, anything("a.test"), traffic.Trust{Report: true, CA: roots(t, a)}, true)
	if err != nil || h.Certificate.Distrust != "it has expired" {
		t.Errorf("%v, %+v", err, h.Certificate)
	}
}

func TestABackendThatAsksForACertificateOfTheClient(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := &tls.Config{Certificates: []tls.Certificate{signed(t, nil, newKey(t), nil)}, ClientAuth: tls.RequestClientCert, MaxVersion: version}
		h, _, err := open(t, config, anything("a.test"), traffic.Trust{Report: true}, true)
		if !errors.Is(err, ErrClientCertificate) || h.Failed == "" {
			t.Errorf("%s, where that is a failure: %v", tls.VersionName(version), err)
		}
		if h, _, err = open(t, config, anything("a.test"), traffic.Trust{Report: true}, false); err != nil || h.Version != version {
			t.Errorf("%s, where it is told that there is none: %v, %x", tls.VersionName(version), err, h.Version)
		}
	}
}

func TestTheStatedNameIsAskedForWhereTheClientAsksForNone(t *testing.T) {
	var asked string
	config := &tls.Config{Certificates: []tls.Certificate{signed(t, nil, newKey(t), nil)}}
	config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { asked = h.ServerName; return nil, nil }
	for client, want := range map[string]string{"": "b.test", "a.test": "a.test"} {
		if _, _, err := open(t, config, anything(client), traffic.Trust{Report: true, Name: "b.test"}, true); err != nil || asked != want {
			t.Errorf("asked for %q, %v", asked, err)
		}
	}
}

func TestAHandshakeEndsWithItsContext(t *testing.T) {
	v, err := NewVerifier(traffic.Trust{Report: true}, nil)
	check(t, err)
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = theirs.Read(make([]byte, 1)) // it has begun
		cancel()
	}()
	if _, h, err := Open(ctx, ours, anything(""), v, true); !errors.Is(err, context.Canceled) || h.Failed == "" || h.Ended.Before(h.Began) {
		t.Errorf("%v, %+v", err, h)
	}
	_ = theirs.Close()
}

func TestRootsThatCannotBeReadAreNamed(t *testing.T) {
	if _, err := NewVerifier(traffic.Trust{CA: "/nowhere/ca.crt"}, nil); err == nil || !strings.Contains(err.Error(), "/nowhere/ca.crt") {
		t.Errorf("%v", err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	check(t, os.WriteFile(file, []byte("no PEM"), 0o600))
	if _, err := NewVerifier(traffic.Trust{CA: file}, nil); err == nil || !strings.Contains(err.Error(), "PEM") || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}

func TestWhereNobodyKnowsANameNobodyIsTrustedByIt(t *testing.T) {
	a := rootOf(t)
	config := &tls.Config{Certificates: []tls.Certificate{signed(t, &a, newKey(t), nil)}}
	if _, _, err := open(t, config, anything(""), traffic.Trust{CA: roots(t, a)}, true); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "write name") {
		t.Errorf("%v", err)
	}
}

func TestWhoTakesAnyCertificateFindsNothingWrongByEitherRoots(t *testing.T) {
	a := rootOf(t)
	trust := traffic.TLS{ToPrimary: traffic.Trust{CA: roots(t, a)}, ToCandidate: traffic.Trust{Report: true}}.Candidate()
	h, _, err := open(t, &tls.Config{Certificates: []tls.Certificate{signed(t, &a, newKey(t), nil)}}, anything("a.test"), trust, true)
	if err != nil || h.Certificate.Distrust != "" {
		t.Errorf("%v, %+v", err, h.Certificate)
	}
}

func TestRootsThatChangeAreReadAgainAndWhatIsNoneIsNot(t *testing.T) {
	old, renewed := rootOf(t), rootOf(t)
	file, at := roots(t, old), began
	v, err := NewVerifier(traffic.Trust{CA: file}, func() time.Time { return at })
	check(t, err)
	by := func(a tls.Certificate) error {
		at = at.Add(lookEvery)
		return v.judge([]*x509.Certificate{signed(t, &a, newKey(t), nil).Leaf}, anything("a.test"))
	}
	for _, step := range []struct {
		text     []byte
		old, new bool
	}{
		{nil, true, false},
		{[]byte("no roots"), true, false},
		{certs.PEM(renewed), false, true},
	} {
		if step.text != nil {
			check(t, os.WriteFile(file, step.text, 0o600))
		}
		if a, b := by(old), by(renewed); (a == nil) != step.old || (b == nil) != step.new {
			t.Errorf("with %.20q: by the old ones %v, by the new ones %v", step.text, a, b)
		}
	}
}

// A backend shows its certificate and who has issued that, and nobody has but the root: so
// are all that are of a public authority.
func TestACertificateIsTrustedByWhatIsShownBehindIt(t *testing.T) {
	root := rootOf(t)
	between := signed(t, &root, newKey(t), func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.BasicConstraintsValid, c.ExtKeyUsage = "between", true, true, nil
	})
	whole := signed(t, &between, newKey(t), nil)
	alone := whole
	alone.Certificate = whole.Certificate[:1]
	for name, c := range map[string]tls.Certificate{"with its chain": whole, "alone": alone} {
		_, _, err := open(t, &tls.Config{Certificates: []tls.Certificate{c}}, anything("a.test"), traffic.Trust{CA: roots(t, root)}, true)
		if trusted := err == nil; trusted != (name == "with its chain") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who makes a certificate may write any time into it, and what is told of it goes to another
// process, to reports and to the store as JSON.
func TestWhateverTimesACertificateHasCanBeTold(t *testing.T) {
	for want, at := range map[string]time.Time{
		"0001-01-01T00:00:01Z":  {}, // none would not be told
		"0001-01-01T00:00:01Z ": time.Date(0, 1, 1, 0, 0, 0, 0, time.FixedZone("", 24*60*60)),
		"9999-12-31T23:59:59Z":  time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -24*60*60)),
		"2060-01-01T03:04:05Z":  time.Date(2060, 1, 2, 3, 4, 5, 0, time.FixedZone("", 24*60*60)),
	} {
		text, err := json.Marshal(shown([]*x509.Certificate{{NotBefore: at, NotAfter: at}}))
		if err != nil || strings.Count(string(text), `"`+strings.TrimSpace(want)+`"`) != 2 {
			t.Errorf("%s is told as %s: %v", at, text, err)
		}
	}
}
