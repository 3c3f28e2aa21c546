package terminator

import (
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/traffic"
)

func newRSA(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsaKey()
	check(t, err)
	return key
}

func TestTheNameChoosesTheCertificate(t *testing.T) {
	a := newAuthority(t)
	one, two, wild := a.sign(t, newKey(t), "one.test"), a.sign(t, newKey(t), "two.test", "three.test"), a.sign(t, newKey(t), "*.wild.test")
	theirs := []tls.Certificate{a.sign(t, newKey(t), "one.test", "two.test", "three.test", "x.wild.test")}
	s := newStand(t, a, set{protocol: "raw", own: []tls.Certificate{one, two, wild}, serve: echoes(&tls.Config{Certificates: theirs})})
	for name, want := range map[string]tls.Certificate{"one.test": one, "two.test": two, "THREE.test": two, "x.wild.test": wild} {
		config := s.asks(name)
		s.knows(config)
		if _, state, flow := s.through(config, "x"); !sameKeys(state.PeerCertificates, want) || flow.opaque != "" {
			t.Errorf("%s: %v, opaque %q", name, state.PeerCertificates[0].DNSNames, flow.opaque)
		}
	}
}

func TestWithoutANameItIsTheFirst(t *testing.T) {
	a := newAuthority(t)
	one, two := a.sign(t, newKey(t), "one.test"), a.sign(t, newKey(t), "two.test")
	s := newStand(t, a, set{protocol: "raw", own: []tls.Certificate{one, two}, serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "one.test")}})})
	config := &tls.Config{InsecureSkipVerify: true}
	s.knows(config)
	if _, state, flow := s.through(config, "x"); !sameKeys(state.PeerCertificates, one) || flow.opaque != "" {
		t.Errorf("%v, opaque %q", state.PeerCertificates[0].DNSNames, flow.opaque)
	}
}

// Of every suite and version that a primary may insist on: what the client gets is that, or, where our
// key is of the other kind, one that is in nothing weaker.
func TestNothingIsWeakerThanThePrimarysOwn(t *testing.T) {
	a := newAuthority(t)
	keys := map[string]crypto.Signer{"ECDSA": newKey(t), "RSA": newRSA(t)}
	offered := suites()
	for ours := range keys {
		for theirs := range keys {
			for version := uint16(tls.VersionTLS10); version <= tls.VersionTLS12; version++ {
				t.Run(fmt.Sprintf("our %s, the primary's %s, %s", ours, theirs, tls.VersionName(version)), func(t *testing.T) {
					config := &tls.Config{Certificates: []tls.Certificate{a.sign(t, keys[theirs], "a.test")}, MinVersion: version, MaxVersion: version}
					s := newStand(t, a, set{protocol: "raw", own: []tls.Certificate{a.sign(t, keys[ours], "a.test")}, serve: echoes(config)})
					seen := 0
					for _, suite := range offered {
						if !fits(suite, version, theirs) {
							continue
						}
						config := config.Clone()
						config.CipherSuites = []uint16{suite}
						s.serves(echoes(config))
						s.known.forget(all)
						asks := s.asks("a.test")
						asks.MinVersion, asks.CipherSuites = tls.VersionTLS10, offered
						s.knows(asks)
						conn, flow := s.connect()
						inside := tls.Client(conn, asks)
						err := inside.Handshake()
						_ = conn.Close()
						<-flow.done
						if err != nil || flow.opaque != "" {
							t.Errorf("%s: %v, opaque %q", tls.CipherSuiteName(suite), err, flow.opaque)
							continue
						}
						seen++
						got := inside.ConnectionState()
						if got.Version != version {
							t.Errorf("%s: %s", tls.CipherSuiteName(suite), tls.VersionName(got.Version))
						}
						if ours == theirs && got.CipherSuite != suite || slices.Index(noWeaker(suite, offered), got.CipherSuite) < 0 {
							t.Errorf("%s with the primary, %s with the client", tls.CipherSuiteName(suite), tls.CipherSuiteName(got.CipherSuite))
						}
					}
					if seen < 2 {
						t.Errorf("%d suites were seen", seen)
					}
				})
			}
		}
	}
}

// fits says whether a suite is for a version and a kind of key.
func fits(suite, version uint16, kind string) bool {
	for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if s.ID == suite {
			return slices.Contains(s.SupportedVersions, version) && strings.Contains(s.Name, "_ECDSA_") == (kind == "ECDSA")
		}
	}
	return false
}

func TestASuiteThatIsWeakerInAnythingIsNotAllowed(t *testing.T) {
	all := suites()
	for than, weaker := range map[uint16][]uint16{
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: {tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_RSA_WITH_RC4_128_SHA},
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: {tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		tls.TLS_RSA_WITH_AES_128_CBC_SHA:          {tls.TLS_RSA_WITH_RC4_128_SHA, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA},
	} {
		allowed := noWeaker(than, all)
		if !slices.Contains(allowed, than) {
			t.Errorf("%s is weaker than itself", tls.CipherSuiteName(than))
		}
		for _, w := range weaker {
			if slices.Contains(allowed, w) {
				t.Errorf("%s is allowed for %s", tls.CipherSuiteName(w), tls.CipherSuiteName(than))
			}
		}
	}
}

func TestAClientThatCannotTakeOurKindOfKeyIsPassedThrough(t *testing.T) {
	a := newAuthority(t)
	theirs := a.sign(t, newRSA(t), "a.test")
	s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})})
	config := s.asks("a.test")
	config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	s.knows(config)
	_, state, flow := s.through(config, "x")
	if !sameKeys(state.PeerCertificates, theirs) {
		t.Error("it was not shown the primary's")
	}
	passesThrough(t, s, flow, unspoken)
}

func TestARenewedCertificateIsTakenUp(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}})})
	config := s.asks("a.test")
	s.knows(config)
	_, before, _ := s.through(config, "x")
	renewed := a.sign(t, newKey(t), "a.test")
	save(t, s.own[0], renewed)
	s.certificates.looked = s.certificates.looked.Add(-lookEvery) // a second later
	s.knows(config)                                               // by whose flow it is seen
	if _, state, _ := s.through(config, "x"); !sameKeys(state.PeerCertificates, renewed) || sameKeys(before.PeerCertificates, renewed) {
		t.Error("the renewed one is not shown")
	}
	again := a.sign(t, newKey(t), "a.test")
	save(t, s.own[0], again)
	s.Reload()
	s.knows(config) // what was known of the primary is found anew
	if _, state, _ := s.through(config, "x"); !sameKeys(state.PeerCertificates, again) {
		t.Error("the one behind a reload is not shown")
	}
}

func TestAPairThatDoesNotFitLeavesTheOldOneAndIsSaidOnce(t *testing.T) {
	a := newAuthority(t)
	own := a.sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "raw", own: []tls.Certificate{own}, serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}})})
	s.knows(s.asks("a.test"))
	other := traffic.Certificate{Cert: s.own[0].Cert, Key: s.own[0].Key + ".new"}
	save(t, other, a.sign(t, newKey(t), "a.test")) // a new certificate with the old key
	for range 3 {
		s.certificates.looked = s.certificates.looked.Add(-lookEvery)
		if _, state, _ := s.through(s.asks("a.test"), "x"); !sameKeys(state.PeerCertificates, own) {
			t.Error("another certificate is shown")
		}
	}
	if n := strings.Count(s.logged.String(), "cannot be read again"); n != 1 || !strings.Contains(s.logged.String(), s.own[0].Cert) {
		t.Errorf("logged %d times: %s", n, s.logged)
	}
	save(t, s.own[0], own)
	s.certificates.looked = s.certificates.looked.Add(-lookEvery)
	s.Look()
	if !strings.Contains(s.logged.String(), "can be read again, and is the one that was served") || s.Served()[0].Fault != nil {
		t.Errorf("it is mended, and what is known is %v: %s", s.Served()[0].Fault, s.logged)
	}
	check(t, os.Remove(s.own[0].Cert))
	s.Reload()
	s.knows(s.asks("a.test"))
	if _, state, _ := s.through(s.asks("a.test"), "x"); !sameKeys(state.PeerCertificates, own) {
		t.Error("without the file another certificate is shown")
	}
}

func TestWithoutCertificatesThereIsNoTerminator(t *testing.T) {
	split := traffic.Split{Name: "web"}
	if _, err := New(Options{Split: split}); err == nil {
		t.Error("one was made of none")
	}
	split.Shadow.TLS.Certificates = []traffic.Certificate{{Cert: "/nowhere.crt", Key: "/nowhere.key"}}
	if _, err := New(Options{Split: split}); err == nil || !strings.Contains(err.Error(), "/nowhere.crt") {
		t.Errorf("of files that are not there: %v", err)
	}
}

// crypto/tls cannot be told which suite of TLS 1.3 a client gets: it is AES with 128 bits, where
// that is offered.
func TestNobodyGets128BitsOfTLS13WhereThePrimaryTakes256UnlessThatIsAllowed(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "raw"})
	b := helloOf(t, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	all := newHello(b, listen(&recorder{side: &side{Conn: deaf{}, before: b}}, nil))
	only := *all
	info := *all.info
	info.CipherSuites = []uint16{tls.TLS_AES_256_GCM_SHA384}
	only.info = &info
	for name, test := range map[string]struct {
		of     *hello
		taken  uint16
		allow  bool
		reason string
	}{
		"128":                              {all, tls.TLS_AES_128_GCM_SHA256, false, ""},
		"256":                              {all, tls.TLS_AES_256_GCM_SHA384, false, halfKey},
		"ChaCha20":                         {all, tls.TLS_CHACHA20_POLY1305_SHA256, false, halfKey},
		"256, and it is allowed":           {all, tls.TLS_AES_256_GCM_SHA384, true, ""},
		"256, and nothing else is offered": {&only, tls.TLS_AES_256_GCM_SHA384, false, ""},
	} {
		s.allowAES128 = test.allow
		config, reason := s.answers(test.of, shadow.Handshake{Version: tls.VersionTLS13, Cipher: test.taken})
		if reason != test.reason || (config == nil) != (reason != "") {
			t.Errorf("%s: %q, want %q", name, reason, test.reason)
		}
	}
}
