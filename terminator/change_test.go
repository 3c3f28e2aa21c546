package terminator

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// A primary that has changed is found out by one flow, which is refused; what others would
// have been told by what was known before is asked anew.
func TestAPrimaryThatHasChangedRefusesOneClient(t *testing.T) {
	a := newAuthority(t)
	over := a.signFor(t, newKey(t), time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour), "a.test", "b.test")
	good := a.sign(t, newKey(t), "a.test", "b.test")
	for reason, test := range map[string]struct {
		own, before tls.Certificate
		trust       *traffic.Trust
		after       *tls.Config
	}{
		untrusted:  {good, good, nil, &tls.Config{Certificates: []tls.Certificate{newAuthority(t).sign(t, newKey(t), "a.test", "b.test")}}},
		asksClient: {good, good, nil, &tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequestClientCert}},
		outOfTime:  {over, over, &traffic.Trust{Report: true}, &tls.Config{Certificates: []tls.Certificate{good}}},
	} {
		t.Run(reason, func(t *testing.T) {
			s := newStand(t, a, set{protocol: "raw", own: []tls.Certificate{test.own}, trust: test.trust, serve: echoes(&tls.Config{Certificates: []tls.Certificate{test.before}})})
			asks := func(name string) *tls.Config { return &tls.Config{InsecureSkipVerify: true, ServerName: name} }
			for _, name := range []string{"a.test", "b.test"} {
				s.knows(asks(name))
				if _, _, flow := s.through(asks(name), "hello"); flow.opaque != "" {
					t.Fatalf("%s is not seen into before: %s", name, flow.opaque)
				}
			}
			s.serves(echoes(test.after))
			conn, flow := s.connect()
			if err := tls.Client(conn, asks("a.test")).Handshake(); err == nil {
				t.Error("the first client is not refused")
			}
			_ = conn.Close()
			<-flow.done
			answer, _, flow := s.through(asks("b.test"), "hello")
			if answer != "HELLO" {
				t.Errorf("the second client hears %q", answer)
			}
			passesThrough(t, s, flow, unknownYet)
			_, _, flow = s.through(asks("a.test"), "hello")
			passesThrough(t, s, flow, reason)
			s.known.running.Wait()
			_, _, flow = s.through(asks("b.test"), "hello")
			passesThrough(t, s, flow, reason)
		})
	}
}

func TestWhatIsForgottenOfAPrimaryThatHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("down") })
		defer k.close()
		here, there := place{agreed: true}, place{primary: netip.MustParseAddrPort("192.0.2.1:25")}
		a, b, c := shadow.Handshake{ServerName: "a.test"}, shadow.Handshake{ServerName: "b.test"}, shadow.Handshake{ServerName: "c.test"}
		learn := func() {
			for _, at := range []place{here, there} {
				k.learn(at, a, shadow.Handshake{}, nil)
				k.learn(at, b, shadow.Handshake{}, nil)
			}
		}
		known := func(at place, asked shadow.Handshake) bool {
			_, ok := k.of(at, asked)
			synctest.Wait()
			return ok
		}
		for name, test := range map[string]struct {
			err     error
			forgets bool
		}{
			"another certificate": {secure.ErrUntrusted, true},
			"a certificate asked": {secure.ErrClientCertificate, true},
			"no answer":           {errors.New("reset"), false},
			"as ever":             {nil, false},
		} {
			k.forget(all)
			learn()
			k.asks(here, c)
			k.learn(here, a, shadow.Handshake{}, test.err)
			if !known(here, a) || known(here, b) == test.forgets {
				t.Errorf("%s: %+v", name, k.entries)
			}
			if !known(there, a) || !known(there, b) {
				t.Errorf("%s: another primary is forgotten", name)
			}
			if f, ok := k.of(here, c); !ok || f.reason != asksAnew {
				t.Errorf("%s: that it asks anew is forgotten", name)
			}
			learn() // all but a are as they were
			k.learn(here, a, shadow.Handshake{}, test.err)
			k.learn(here, b, shadow.Handshake{}, nil)
			k.learn(here, a, shadow.Handshake{}, test.err)
			if !known(here, b) {
				t.Errorf("%s: what is found again and again has another one be forgotten", name)
			}
		}
	})
}

// An apply of another weight has files read again, too: nothing that has not changed makes
// anybody blind.
func TestWhatIsKnownStaysWhereNoFileHasChanged(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	own, theirs := a.sign(t, newKey(t), "a.test"), a.sign(t, newKey(t), "a.test")
	var later atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	s := newStand(t, a, set{protocol: "raw", now: now, own: []tls.Certificate{own}, serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})})
	asks := &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}
	known := func(what string, want bool) {
		t.Helper()
		_, _, flow := s.through(asks, "x")
		if (flow.opaque == "") != want {
			t.Errorf("%s: opaque %q", what, flow.opaque)
		}
		s.known.running.Wait()
		s.through(asks, "x") // known again
	}
	s.knows(asks)
	s.Reload()
	known("nothing has changed", true)
	save(t, s.own[0], own)
	s.Reload()
	known("the same is written again", true)
	check(t, os.WriteFile(s.own[0].Cert, []byte("what"), 0o600))
	s.Reload()
	known("a file is spoilt", true)
	save(t, s.own[0], a.sign(t, newKey(t), "a.test"))
	s.Reload()
	known("another certificate", false)
	save(t, s.own[0], own)
	s.certificates.reload() // as a flow has it read
	s.Reload()
	known("another certificate that was read meanwhile", false)
	check(t, os.WriteFile(s.trust.CA, bytes.Join([][]byte{certs.PEM(a.Certificate), certs.PEM(other.Certificate)}, nil), 0o600))
	s.Reload()
	known("more roots", false)
	check(t, os.WriteFile(s.trust.CA, certs.PEM(a.Certificate), 0o600))
	later.Store(int64(lookEvery))
	s.Look()
	known("fewer roots that were looked at", false)
}

func TestWhatIsForgottenWhileItIsProbedIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := knowing(func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		defer k.close()
		probes := func() int {
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.probes
		}
		asked := shadow.Handshake{ServerName: "a.test"}
		k.learn(place{}, asked, shadow.Handshake{}, nil)
		time.Sleep(knownFor / 2)
		if _, ok := k.of(place{}, asked); !ok || probes() != 1 {
			t.Errorf("it is known: %v, %d probes", ok, probes())
		}
		k.forget(all)
		if _, ok := k.of(place{}, asked); ok || probes() != 1 {
			t.Errorf("it is known: %v, %d probes", ok, probes())
		}
		time.Sleep(probePatience) // which ends the probe: what it finds was judged by what is no more
		synctest.Wait()
		if _, ok := k.of(place{}, asked); ok || probes() != 1 {
			t.Errorf("what that probe has found is known: %v, %d probes", ok, probes())
		}
		k.asks(place{}, asked)
		if k.judgedBy(nil, x509.NewCertPool()) {
			t.Error("other roots are the same")
		}
		if f, ok := k.of(place{}, asked); !ok || f.reason != asksAnew {
			t.Errorf("that it asks anew, which no probe finds, is forgotten: %+v", f)
		}
	})
}

func all(question) bool { return true }
