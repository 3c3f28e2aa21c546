package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// dialFrom dials from an address of this host.
func dialFrom(t *testing.T, from netip.Addr, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: from.AsSlice()}, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { abortConn(c) })
	return c
}

// wantReset checks that a client gets a connection, and no more than that.
func wantReset(t *testing.T, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: from.AsSlice()}, net.TCPAddrFromAddrPort(to))
	if err == nil { // else the reset has overtaken connect(2)
		defer abortConn(c)
		_, err = c.Read(make([]byte, 1))
	}
	if !isReset(err) {
		t.Errorf("client got %v, want a reset", err)
	}
}

func TestFlowsOverALimitAreResetAndCountedByReason(t *testing.T) {
	first, second := netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.0.0.12")
	for name, test := range map[string]struct {
		proxy traffic.Proxy
		full  []netip.Addr // have a flow each
		next  netip.Addr
		want  traffic.Refusal // "": it is served
	}{
		"no limit":             {traffic.Proxy{}, []netip.Addr{first, first, first}, first, ""},
		"flows":                {traffic.Proxy{MaxFlows: 3}, []netip.Addr{first, first, second}, second, traffic.RefusedMaxFlows},
		"flows, one below":     {traffic.Proxy{MaxFlows: 3}, []netip.Addr{first, second}, second, ""},
		"client's flows":       {traffic.Proxy{MaxClientFlows: 2}, []netip.Addr{first, first, second}, first, traffic.RefusedMaxClientFlows},
		"another client's":     {traffic.Proxy{MaxClientFlows: 2}, []netip.Addr{first, first, second}, second, ""},
		"both, of all clients": {traffic.Proxy{MaxFlows: 2, MaxClientFlows: 2}, []netip.Addr{first, second}, second, traffic.RefusedMaxFlows},
	} {
		t.Run(name, func(t *testing.T) {
			ip := families()["IPv4"]
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, startServer(t, ip, echo), nil)
			split.Proxy.MaxFlows, split.Proxy.MaxClientFlows = test.proxy.MaxFlows, test.proxy.MaxClientFlows
			r, began := startRelay(t, Options{}, split), time.Now()
			var open []*net.TCPConn
			for _, from := range test.full {
				c := dialFrom(t, from, service)
				exchange(t, c, "within the limit")
				open = append(open, c)
			}
			want := map[string]map[traffic.Refusal]uint64{"mx": {}}
			if test.want == "" {
				exchange(t, dialFrom(t, test.next, service), "within the limit too")
			} else {
				want["mx"][test.want] = 1
				wantReset(t, test.next, service)
				nettest.Eventually(t, "the log names the limit", func() bool {
					return strings.Contains(r.logs.String(), fmt.Sprintf("limit=proxy.%s ", test.want))
				})
			}
			if diff := cmp.Diff(want, r.Refusals()); diff != "" {
				t.Errorf("Refusals() (-want +got):\n%s", diff)
			}
			newest := r.ShutOut()["mx"]
			if at, told := newest[test.want]; told != (test.want != "") || told && (at.Before(began) || at.After(time.Now())) || len(newest) > 1 {
				t.Errorf("ShutOut() = %v, want %q, a moment ago", newest, test.want)
			}
			before := r.openFlows()
			abortConn(open[0])
			nettest.Eventually(t, "a place is free", func() bool { return r.openFlows() < before })
			exchange(t, dialFrom(t, test.full[0], service), "in its place")
		})
	}
}

// A reload that changes a limit counts the flows that are open already.
func TestALimitCountsFlowsFromBeforeIt(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	r := startRelay(t, Options{}, split)
	exchange(t, dial(t, service), "before")
	split.Proxy.MaxFlows = 1
	r.apply(split)
	wantReset(t, ip, service)
	split.Proxy.MaxFlows = 2
	r.apply(split)
	exchange(t, dial(t, service), "after")
}

// Or whoever sends datagrams in a client's name would keep its connections out.
func TestFlowsOfUDPTakeNoRoomFromThoseOfTCP(t *testing.T) {
	ip := families()["IPv4"]
	at := netip.AddrPortFrom(ip, freePort())
	service := netip.AddrPortFrom(ip, freePort())
	answers(t, at, "old")
	startServerAt(t, at, greeter('o'))
	split := newSplit("mx", service, at, nil)
	split.Service.Ports = append(split.Service.Ports, traffic.Port{Number: service.Port(), Transport: traffic.UDP})
	split.Proxy.MaxFlows, split.Proxy.MaxClientFlows = 4, 2
	r := startRelay(t, Options{Workers: 2}, split)
	victim := netip.MustParseAddr("127.0.0.11")
	for _, from := range []netip.Addr{victim, victim, netip.MustParseAddr("127.0.0.12"), netip.MustParseAddr("127.0.0.13")} {
		speakFrom(t, from, service).wantFrom("old")
	}
	for range 2 {
		c := dialFrom(t, victim, service)
		if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("a connection of the client: %v, want that it is served", err)
		}
	}
	wantReset(t, victim, service)
	speakFrom(t, victim, service).say("?too many")
	nettest.Eventually(t, "each is refused in its own transport", func() bool {
		return r.Refusals()["mx"][traffic.RefusedMaxClientFlows]+r.Refusals()["mx"][traffic.RefusedMaxFlows] == 2
	})
}
