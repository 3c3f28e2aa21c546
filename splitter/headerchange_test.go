package splitter

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// waiting returns a client whose header is still to come.
func waiting(t *testing.T, r *testRelay, service netip.AddrPort) *net.TCPConn {
	t.Helper()
	c := dial(t, service)
	nettest.Eventually(t, "it waits for a header", func() (waits bool) {
		r.inspect(func(w *worker) { w.flows.each(func(f *flow) { waits = waits || f.stage == awaiting }) })
		return waits
	})
	return c
}

func TestAConnectionIsDrawnWhenItsHeaderHasCome(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{
		"new": {startServer(t, ip, greeter('n')), traffic.Whole},
	}))
	r := startRelay(t, Options{header: testPatience}, split)
	c := waiting(t, r, service)
	r.setWeights(split, map[string]traffic.Weight{"new": 0})
	if n := r.Free(attemptsAt(ofNew)); n != 0 {
		t.Errorf("%d attempts were freed, want none yet", n)
	}
	write(t, c, text("198.51.100.7:1"))
	if got := letter(t, c); got != "o" {
		t.Errorf("served by %q, want the primary: the candidate has had no weight since before the header", got)
	}
}

// The primary serves, which was its split's when its address went.
func TestAConnectionWhoseServiceGoesBeforeItsHeaderIsThePrimarys(t *testing.T) {
	ip := families()["IPv4"]
	for name, other := range map[string]bool{"the service goes": false, "it is another split's": true} {
		t.Run(name, func(t *testing.T) {
			service := netip.AddrPortFrom(ip, freePort())
			split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{
				"new": {startServer(t, ip, greeter('n')), traffic.Whole},
			}))
			next := newSplit("web", service, startServer(t, ip, greeter('w')), nil)
			r := startRelay(t, Options{header: testPatience}, split)
			c := waiting(t, r, service)
			if other {
				r.apply(next)
			} else {
				r.apply()
			}
			write(t, c, text("198.51.100.7:1"))
			if got := letter(t, c); got != "o" {
				t.Errorf("served by %q, want the primary", got)
			}
			abortConn(c)
			nettest.Eventually(t, "the flow is over", func() bool { return r.openFlows() == 0 })
			for name, g := range r.gates {
				if n := g.tcp.open.Load(); n != 0 {
					t.Errorf("%d flows of %s are counted", n, name)
				}
			}
		})
	}
}

// Who is asked for a header already stays so, and who connects later is not.
func TestNetworksThatSendNoHeadersAnyMoreAreAskedForNone(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	r := startRelay(t, Options{header: testPatience}, behindProxies(ip, split))
	c := waiting(t, r, service)
	r.apply(split)
	write(t, c, text("198.51.100.7:1"))
	exchange(t, c, "behind its header")
	exchange(t, dial(t, service), "without one")
	r.apply(behindProxies(ip, split))
	exchange(t, c, "an open flow")
	c = dial(t, service)
	write(t, c, "EHLO client.example\r\n")
	awaitReset(t, c)
}

// A listener that goes serves clients on their way in by the primary, for lack of
// other backends of the family: they are behind proxies still.
func TestTheChoiceOfAListenerThatGoesKnowsWhoseConnectionsBeginWithAHeader(t *testing.T) {
	ip := families()["IPv4"]
	c := choiceOf(t, behindProxies(ip, newSplit("mx", netip.AddrPortFrom(ip, 25), netip.AddrPortFrom(ip, 26), nil)), ip)
	if !c.toPrimary().proxies.Contain(ip) {
		t.Error("it takes their headers for the client's bytes")
	}
}

func TestARelayThatStopsCutsOffWhoSendsNoHeader(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{header: testPatience}, behindProxies(ip, newSplit("mx", service, startServer(t, ip, echo), nil)))
	c := waiting(t, r, service)
	r.stop()
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("client got %v, want a reset", err)
	}
	<-r.done
}

// A panic in the reading of a header costs that connection alone.
type blindEdge struct{ system }

func (blindEdge) peek(int, []byte) outcome { panic("a fault of ours") }

func TestAFaultInReadingAHeaderCostsThatConnectionAlone(t *testing.T) {
	proxy, other := netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.0.0.12")
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := behindProxies(proxy, newSplit("mx", service, startServer(t, ip, echo), nil))
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return blindEdge{} }}, split)
	c := dialFrom(t, proxy, service)
	write(t, c, "PROXY")
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("client got %v, want a reset", err)
	}
	exchange(t, dialFrom(t, other, service), "hello")
	if n := r.Faults().Panics; n != 1 {
		t.Errorf("%d panics, want 1", n)
	}
}

// However a header is cut and whatever follows it, its length is the same, and
// all of that is the header: not a byte of what follows is taken for it.
func FuzzHeader(f *testing.F) {
	from, to := netip.MustParseAddrPort("[2001:db8::7]:50000"), netip.MustParseAddrPort("192.0.2.25:25")
	for version := range versions() {
		f.Add(append(preamble(version, from, to), "EHLO client.example\r\n"...))
		f.Add(append(preamble(version, to, to), preamble(version, from, to)...))
	}
	for _, seed := range []string{"", "P", "PROXY UNKNOWN\r\nhello", "PROXY TCP4 1 2 3 4\r\n", sign + "\x20\x00\x00\x00hello", sign + "\x21\x11\xff\xff", sign + "\x20\x11\x00\x03abchello", "\r\n\r\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, all []byte) {
		length, err := frame(all)
		if length < 0 || length > len(all) || length > headerMost || err != nil && length != 0 {
			t.Fatalf("a header of %d bytes in %d, %v", length, len(all), err)
		}
		for n := range min(len(all), headerMost+1) {
			part, cut := frame(all[:n])
			switch {
			case part != 0 && part != length:
				t.Fatalf("%d bytes begin with a header of %d, all with one of %d", n, part, length)
			case part == 0 && cut == nil && length > 0 && n >= length:
				t.Fatalf("of a header of %d bytes %d are not enough", length, n)
			case cut != nil && err == nil:
				t.Fatalf("%d bytes are none (%v), all are one of %d", n, cut, length)
			}
		}
		if length == 0 {
			return
		}
		said, err := parseHeader(all[:length])
		if err != nil {
			return
		}
		if said.client.IsValid() != said.service.IsValid() || said.client.Addr().Is4In6() || said.client.Addr().Zone() != "" {
			t.Fatalf("the header says %+v", said)
		}
		from := bufio.NewReaderSize(bytes.NewReader(all), len(all))
		if _, err := proxyproto.Read(from); err != nil {
			t.Fatalf("with what follows it is none: %v", err)
		}
		if rest, _ := io.ReadAll(from); len(rest) != len(all)-length {
			t.Fatalf("the library has taken %d of %d bytes, want %d", len(all)-len(rest), len(all), length)
		}
	})
}

// What we write we read.
func FuzzPreamble(f *testing.F) {
	f.Add([]byte{198, 51, 100, 7}, []byte{192, 0, 2, 25}, uint16(50000), uint16(25))
	f.Add(make([]byte, 16), []byte{192, 0, 2, 25}, uint16(0), uint16(65535))
	f.Fuzz(func(t *testing.T, from, to []byte, fromPort, toPort uint16) {
		a, ok := netip.AddrFromSlice(from)
		b, ok2 := netip.AddrFromSlice(to)
		if !ok || !ok2 {
			return
		}
		for version := range versions() {
			client, service := netip.AddrPortFrom(a, fromPort), netip.AddrPortFrom(b, toPort)
			wire := preamble(version, client, service)
			length, err := frame(append(wire, "hello"...))
			if err != nil || length != len(wire) {
				t.Fatalf("%s: a header of %d bytes, %v, want %d", version, length, err, len(wire))
			}
			said, err := parseHeader(wire)
			if client.Addr().Unmap().IsUnspecified() {
				if !errors.Is(err, errNobody) {
					t.Fatalf("%s: a header of nobody: %v", version, err)
				}
				continue
			}
			if want := (heading{plain(client), plain(service)}); err != nil || said != want {
				t.Fatalf("%s: it says %+v, %v, want %+v", version, said, err, want)
			}
		}
	})
}
