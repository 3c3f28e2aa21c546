package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/shadow"
)

// knowing is a knowledge whose probes do what dial does.
func knowing(dial func(context.Context, netip.AddrPort) (net.Conn, error)) *knowledge {
	t := &Terminator{now: time.Now, log: discard, certificates: &certificates{}}
	t.certificates.pairs.Store(&[]pair{})
	return newKnowledge(t, dial)
}

func TestWhatIsKnownLastsFiveMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) { dials++; return nil, errors.New("down") })
		defer k.close()
		asked := shadow.Handshake{ServerName: "a.test"}
		k.learn(place{}, asked, shadow.Handshake{Version: 7}, nil)
		time.Sleep(knownFor/2 - time.Nanosecond)
		if f, ok := k.of(place{}, asked); !ok || f.handshake.Version != 7 {
			t.Errorf("%+v, %v", f, ok)
		}
		synctest.Wait()
		if dials != 0 {
			t.Errorf("%d probes within half of the time", dials)
		}
		k.learn(place{}, asked, shadow.Handshake{Version: 8}, nil) // a flow teaches
		time.Sleep(knownFor - time.Nanosecond)
		if f, ok := k.of(place{}, asked); !ok || f.handshake.Version != 8 {
			t.Errorf("%+v, %v", f, ok)
		}
		synctest.Wait()
		if f, ok := k.of(place{}, asked); dials != 1 || !ok || f.reason != unopened {
			t.Errorf("%d probes, %+v, %v", dials, f, ok)
		}
		time.Sleep(failedFor)
		if _, ok := k.of(place{}, asked); ok {
			t.Error("a failure is believed for longer than it may")
		}
	})
}

func TestAnotherQuestionIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("down") })
		defer k.close()
		asked := shadow.Handshake{ServerName: "a.test", Protocols: []string{"h2", "http/1.1"}, Least: 1, Most: 2, Ciphers: []uint16{1}}
		k.learn(place{}, asked, shadow.Handshake{}, nil)
		for name, change := range map[string]func(*place, *shadow.Handshake){
			"address":   func(p *place, _ *shadow.Handshake) { p.primary = netip.MustParseAddrPort("192.0.2.1:443") },
			"STARTTLS":  func(p *place, _ *shadow.Handshake) { p.agreed = true },
			"name":      func(_ *place, h *shadow.Handshake) { h.ServerName = "b.test" },
			"protocols": func(_ *place, h *shadow.Handshake) { h.Protocols = []string{"http/1.1", "h2"} },
			"least":     func(_ *place, h *shadow.Handshake) { h.Least = 2 },
			"most":      func(_ *place, h *shadow.Handshake) { h.Most = 3 },
			"ciphers":   func(_ *place, h *shadow.Handshake) { h.Ciphers = []uint16{2} },
		} {
			at, other := place{}, asked
			change(&at, &other)
			if _, ok := k.of(at, other); ok {
				t.Errorf("with another %s it is known", name)
			}
		}
		asked.ServerName = "A.Test"
		if _, ok := k.of(place{}, asked); !ok {
			t.Error("in other letters it is not known")
		}
	})
}

func TestProbesAreFewAndShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		k := knowing(func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
			dials.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		})
		defer k.close()
		for range 2 {
			for i := range 2 * mostProbes {
				if _, ok := k.of(place{}, shadow.Handshake{Least: uint16(i)}); ok {
					t.Error("what is asked for is known")
				}
			}
			synctest.Wait()
			if n := dials.Load(); n != mostProbes || len(k.entries) != mostProbes {
				t.Fatalf("%d probes, %d entries", n, len(k.entries))
			}
		}
		time.Sleep(probePatience)
		synctest.Wait()
		if f, ok := k.of(place{}, shadow.Handshake{}); !ok || f.reason != unopened {
			t.Errorf("after the patience: %+v, %v", f, ok)
		}
	})
}

func TestAPrimaryThatAnswersNothingKeepsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				for b := make([]byte, 1<<10); ; {
					if _, err := theirs.Read(b); err != nil {
						return
					}
				}
			}()
			return ours, nil
		})
		k.t.protocol = protocolOf("smtp")
		k.t.verifier.Store(newVerifier(t))
		for _, at := range []place{{}, {agreed: true}} {
			k.of(at, shadow.Handshake{})
			time.Sleep(probePatience)
			synctest.Wait()
			if f, ok := k.of(at, shadow.Handshake{}); !ok || f.reason != unopened {
				t.Errorf("%+v: %+v, %v", at, f, ok)
			}
		}
		k.close()
	})
}

func TestWhatIsKnownIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := knowing(nil)
		defer k.close()
		for i := range 3 * mostKnown {
			k.learn(place{}, shadow.Handshake{Ciphers: []uint16{uint16(i)}}, shadow.Handshake{}, nil)
			if len(k.entries) > mostKnown {
				t.Fatalf("%d entries", len(k.entries))
			}
			if _, ok := k.of(place{}, shadow.Handshake{Ciphers: []uint16{uint16(i)}}); !ok {
				t.Fatal("what was learnt last is not known")
			}
		}
	})
}

func TestBehindTheEndNothingIsProbed(t *testing.T) {
	k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) {
		t.Error("it was")
		return nil, errors.New("down")
	})
	k.close()
	k.of(place{}, shadow.Handshake{})
	k.running.Wait()
}

func TestAPrimaryThatAsksForANewHandshakeIsRememberedForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("down") })
		defer k.close()
		asked := shadow.Handshake{ServerName: "a.test"}
		k.learn(place{}, asked, shadow.Handshake{}, nil)
		k.asks(place{}, asked)
		asked.Protocols = []string{"http/1.1"} // whoever asks
		time.Sleep(askedFor - time.Nanosecond)
		if f, ok := k.of(place{}, asked); !ok || f.reason != asksAnew {
			t.Errorf("%+v, %v", f, ok)
		}
		time.Sleep(time.Nanosecond)
		if _, ok := k.of(place{}, asked); ok {
			t.Error("it is remembered for longer")
		}
	})
}

func TestOnlyOurRefusalOfANewHandshakeIsOne(t *testing.T) {
	for _, c := range []struct {
		op    string
		alert tls.AlertError
		want  bool
	}{{"local error", alertNoRenegotiation, true}, {"remote error", alertNoRenegotiation, false}, {"local error", alertHandshakeFailure, false}} {
		if got := renegotiates(&Broken{Err: &net.OpError{Op: c.op, Err: c.alert}}); got != c.want {
			t.Errorf("%s, %v: %v", c.op, c.alert, got)
		}
	}
}

// What a primary shows is parsed by who asks: nothing of it ends more than the asking.
func TestAProbeThatPanicsIsOneThatHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) { panic("in a probe") })
		defer k.close()
		l := &logged{}
		k.t.log = slog.New(slog.NewTextHandler(l, nil))
		for n := range uint64(2 * mostProbes) {
			asked := shadow.Handshake{Least: uint16(n)}
			k.of(place{}, asked)
			synctest.Wait()
			if f, ok := k.of(place{}, asked); !ok || f.reason != unopened || k.t.counts.panicked.Load() != n+1 {
				t.Errorf("%+v, %v, %d panics", f, ok, k.t.counts.panicked.Load())
			}
		}
		if !strings.Contains(l.String(), "probe of a primary's TLS has panicked") || !strings.Contains(l.String(), "in a probe") {
			t.Errorf("logged: %s", l)
		}
	})
}
