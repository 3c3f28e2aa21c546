package splitter

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// fewPorts leaves the namespace so many local ports.
const fewPorts = 10

// takenEdge has every port taken that connections with clients' addresses ask for
// by its number.
type takenEdge struct{ system }

func (e takenEdge) connectAs(from, to *endpoint, mark uint32) (int, syscall.Errno) {
	if (*unix.RawSockaddrInet4)(from.address).Port != 0 {
		return 0, unix.EADDRINUSE
	}
	return e.system.connectAs(from, to, mark)
}

// The same for connections with the relay's own address and with the client's,
// whose own ports are all taken: those that the kernel chooses then are shared by
// the backends, as each connection has another peer.
func TestWhenTenLocalPortsAreUsedUpNobodyIsEjectedAndAllRecovers(t *testing.T) {
	for name, transparent := range map[string]bool{"the relay's address": false, "the client's": true} {
		t.Run(name, func(t *testing.T) {
			ip, from := families()["IPv4"], netip.MustParseAddr("127.0.0.9")
			service, log := netip.AddrPortFrom(ip, freePort()), &notebook{}
			split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, greeter('n')), traffic.Whole}})
			split.Proxy.Transparent = transparent
			r := startRelay(t, Options{FlowLog: log, LegMark: 1 << 20, edge: func() edge { return takenEdge{} }}, split)
			var own []uint16
			for range 5 * fewPorts {
				own = append(own, freePort())
			}
			if err := setLocalPorts(scarcePorts, scarcePorts+fewPorts-1); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := setLocalPorts(ephemeralFirst, 65000); err != nil {
					t.Error(err)
				}
			})
			// Their own ports are from outside the range.
			connect := func() (*net.TCPConn, byte, error) {
				port := own[0]
				own = own[1:]
				return greetedFrom(t, netip.AddrPortFrom(from, port), service)
			}
			var open []*net.TCPConn
			for i, want := range strings.Repeat("n", fewPorts) + strings.Repeat("o", fewPorts) {
				c, letter, err := connect()
				if err != nil || letter != byte(want) {
					t.Fatalf("client %d is served by %q, %v, want %q", i, letter, err, want)
				}
				open = append(open, c)
			}
			for range fewPorts { // neither backend can be connected
				if _, letter, err := connect(); !isReset(err) {
					t.Fatalf("a client for whom no port is left got %q, %v, want a reset", letter, err)
				}
			}
			if diff := cmp.Diff(map[string]int{"short splitd RC": fewPorts}, endsOf(t, log, fewPorts)); diff != "" {
				t.Errorf("the log's ends (-want +got):\n%s", diff)
			}
			if old, candidate := r.numbers("old"), r.numbers("new"); old.Failed+candidate.Failed > 0 || r.avoided() > 0 {
				t.Errorf("old: %+v, new: %+v, %d avoided; want none failed, nobody ejected", old, candidate, r.avoided())
			}
			if got, want := r.Faults().Dials, uint64(3*fewPorts); got != want {
				t.Errorf("%d attempts failed for lack of a port, want %d", got, want)
			}
			nettest.Eventually(t, "the log says what is short", func() bool {
				return strings.Contains(r.logs.String(), "this host is short of ports") && strings.Contains(r.logs.String(), "cannot assign requested address")
			})
			abortConn(open[0])
			nettest.Eventually(t, "its port is free", func() bool { return r.numbers("new").Active == fewPorts-1 })
			if _, letter, err := connect(); letter != 'n' || err != nil {
				t.Errorf("a client that comes then is served by %q, %v, want the candidate", letter, err)
			}
		})
	}
}

// greetedFrom dials from a port and reads who serves.
func greetedFrom(t *testing.T, from, to netip.AddrPort) (*net.TCPConn, byte, error) {
	t.Helper()
	c, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to))
	if err != nil {
		return nil, 0, err
	}
	t.Cleanup(func() { abortConn(c) })
	var b [1]byte
	_, err = c.Read(b[:])
	return c, b[0], err
}

// endsOf counts so many ends that the log was told of.
func endsOf(t *testing.T, log *notebook, many int) map[string]int {
	t.Helper()
	ends := map[string]int{}
	nettest.Eventually(t, "the log has them", func() bool {
		clear(ends)
		n := 0
		for _, news := range log.told() {
			if news.Ends {
				ends[news.End+" "+news.By+" "+news.Code]++
				n++
			}
		}
		return n >= many
	}, func() any { return ends })
	return ends
}

// crampedEdge finds no local port for a connection while it is armed.
type crampedEdge struct {
	system
	armed atomic.Bool
	asked atomic.Int64
}

func (e *crampedEdge) connect(to *endpoint) (int, syscall.Errno) {
	if !e.armed.Load() {
		return e.system.connect(to)
	}
	e.asked.Add(1)
	return 0, unix.EADDRNOTAVAIL
}

func TestWhereNoLocalPortIsLeftTheKernelLooksForOneWhenAFlowHasEndedAndNotForEveryClient(t *testing.T) {
	ip := families()["IPv4"]
	service, e := netip.AddrPortFrom(ip, freePort()), &crampedEdge{}
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, greeter('n')), traffic.Whole}})
	r := startRelay(t, Options{edge: func() edge { return e }, ports: time.Hour}, split)
	first := dial(t, service)
	if _, err := first.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	e.armed.Store(true)
	const clients = 100
	refused := func() {
		t.Helper()
		if letter, err := greeting(service); !isReset(err) {
			t.Fatalf("a client for whom no port is left got %q, %v, want a reset", letter, err)
		}
	}
	for range clients {
		refused()
	}
	if n := e.asked.Load(); n != 2 {
		t.Errorf("for %d clients the kernel has looked for a port %d times, want once for each backend", clients, n)
	}
	if got := r.Faults().Dials; got != 2*clients {
		t.Errorf("%d attempts are counted as failed for lack of a port, want %d", got, 2*clients)
	}
	e.armed.Store(false)
	refused() // nobody knows yet
	abortConn(first)
	nettest.Eventually(t, "its port is free", func() bool { return r.numbers("new").Active == 0 })
	if letter, err := greeting(service); letter != 'n' || err != nil {
		t.Errorf("a client that comes then is served by %q, %v, want the candidate", letter, err)
	}
	if old, candidate := r.numbers("old"), r.numbers("new"); old.Failed+candidate.Failed > 0 || r.avoided() > 0 {
		t.Errorf("old: %+v, new: %+v, %d avoided; want none failed, nobody ejected", old, candidate, r.avoided())
	}
}

func TestAnAddressWithoutLocalPortsIsTriedAgainAfterAPauseAndForgotten(t *testing.T) {
	u := &usedUp{pause: 100}
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 25)
	}
	if u.note(at(0), 1000); !u.holds(at(0), 1000) || !u.holds(at(0), 1099) || u.holds(at(0), 1100) || u.holds(at(1), 1000) {
		t.Error("it is not for 100 ticks, and for that address, that no port is looked for")
	}
	if u.ended(at(1)); !u.holds(at(0), 1000) {
		t.Error("the end of a connection to another address gives it a port")
	}
	if u.ended(at(0)); u.holds(at(0), 1000) || u.some.Load() {
		t.Error("the end of a connection to it gives it none")
	}
	for i := range 10_000 {
		u.note(at(i), int64(1000+i))
	}
	if n := len(u.until); n > 100 {
		t.Errorf("%d addresses are remembered, want those of the last 100 ticks", n)
	}
}
