package splitter

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// Their clients think themselves connected although nobody has accepted them.
func TestConnectionsInTheQueueOfAListenerThatGoesAreServed(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 1}, newSplit("mx", service, startServer(t, ip, echo), nil))
	w, busy, free := r.workers[0], make(chan struct{}), make(chan struct{})
	w.post(func() {
		close(busy)
		<-free
	})
	<-busy // it accepts nothing
	clients := []*net.TCPConn{dial(t, service), dial(t, service), dial(t, service)}
	applied := make(chan error, 1)
	go func() { applied <- r.Apply(t.Context(), nil) }()
	nettest.Eventually(t, "the listener is to go", func() bool {
		w.mail.mu.Lock()
		defer w.mail.mu.Unlock()
		return len(w.mail.orders) == 1
	})
	close(free)
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	for _, client := range clients {
		exchange(t, client, "still here")
	}
	wantRefused(t, service)
}

func TestClientsOnTheirWayInAreServedByAListenerThatGoes(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			service := netip.AddrPortFrom(ip, freePort())
			r := startRelay(t, Options{}, newSplit("mx", service, startServer(t, ip, echo), nil))
			client := dialSlowly(t, service)
			r.apply()
			exchange(t, client, "still here")
			wantRefused(t, service)
		})
	}
}

func TestARelayThatStopsServesClientsOnTheirWayIn(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	split.Proxy.DrainTimeout = time.Minute
	r := startRelay(t, Options{}, split)
	client := dialSlowly(t, service)
	r.stop()
	nettest.Eventually(t, "it stops", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.stopped
	})
	exchange(t, client, "still here")
	abortConn(client)
	if !r.returned(testPatience) {
		t.Error("Run did not return")
	}
	wantRefused(t, service)
}

func TestAListenerThatGoesStaysWhenItIsWantedAgain(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, greeter('n')), 0}})
	r := startRelay(t, Options{}, split)
	for range 3 {
		dialSlowly(t, service)
		r.apply()
		split.Candidates[0].Weight = traffic.Whole - split.Candidates[0].Weight
		r.apply(split)
		want := map[traffic.Weight]byte{0: 'o', traffic.Whole: 'n'}[split.Candidates[0].Weight]
		if letter, err := greeting(service); letter != want || err != nil {
			t.Errorf("served by %q, %v, want %q", letter, err, want)
		}
	}
	r.apply()
	wantRefused(t, service)
}

func TestAListenerThatGoesMakesRoomForTheWildcard(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	server := startServer(t, ip, echo)
	r := startRelay(t, Options{}, newSplit("mx", service, server, nil))
	client := dialSlowly(t, service)
	r.apply()
	r.apply(newSplit("all", netip.AddrPortFrom(netip.IPv4Unspecified(), service.Port()), server, nil))
	exchange(t, client, "still here")
	exchange(t, dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), service.Port())), "and others")
}

// Whoever asks in the moment before a listener closes is not answered, so that he
// is refused when he asks again, and never reset: or served, if it stays.
func TestWhoComesWhileAListenerTurnsClientsAwayIsNotReset(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, startServer(t, ip, echo), nil)
			r := startRelay(t, Options{}, split)
			late := func() chan error {
				began := make(chan error, 1)
				go func() {
					c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service))
					if err == nil {
						t.Cleanup(func() { abortConn(c) })
						_ = c.SetDeadline(time.Now().Add(testPatience))
						_, err = c.Write([]byte("x"))
					}
					if err == nil {
						_, err = c.Read(make([]byte, 1))
					}
					began <- err
				}()
				nettest.Eventually(t, "the client has asked", func() bool { return countState(t, service, unix.BPF_TCP_SYN_SENT) == 1 })
				return began
			}
			turnAway := func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.fronts[tcpSpot(service)].turnAway()
			}
			open, onTheWay := dial(t, service), dialSlowly(t, service)
			turnAway()
			stays := late()
			r.apply() // waits for the one who is on the way
			r.apply(split)
			if err := <-stays; err != nil {
				t.Errorf("a client of a listener that stays after all: %v", err)
			}
			turnAway()
			goes := late()
			r.apply()
			if err := <-goes; !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a client of one that has gone: %v, want refused", err)
			}
			exchange(t, open, "a flow")
			exchange(t, onTheWay, "one that was on its way")
		})
	}
}

// countState counts sockets that are connecting there.
func countState(t *testing.T, to netip.AddrPort, state uint8) int {
	t.Helper()
	family := uint8(unix.AF_INET6)
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	all, err := netlink.SocketDiagTCP(family)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range all {
		if s.State == state && s.ID.DestinationPort == to.Port() {
			n++
		}
	}
	return n
}

func TestAListenerDoesNotWaitForClientsThatTheKernelHasGivenUp(t *testing.T) {
	l := &leave{clients: map[netip.AddrPort]bool{netip.MustParseAddrPort("127.0.0.1:9"): true}}
	if !l.over(netip.AddrPortFrom(families()["IPv4"], freePort())) {
		t.Error("it waits for a handshake that the kernel has given up")
	}
}

func FuzzParseHandshake(f *testing.F) {
	f.Add(make([]byte, diagSize))
	f.Add(append([]byte{unix.AF_INET6}, make([]byte, diagSize)...))
	f.Fuzz(func(t *testing.T, answer []byte) {
		here, client, ok := parseHandshake(answer)
		if ok != (len(answer) >= diagSize) || here.IsValid() != ok || client.IsValid() != ok {
			t.Errorf("parseHandshake(%x) = %v, %v, %v", answer, here, client, ok)
		}
	})
}

// dialSlowly connects as from far away: the server waits for the last step of
// the handshake for 200 ms (TCP_DELACK_MAX) or until the client speaks, because
// the kernel holds back the ACK of a socket that need not acknowledge at once
// (tcp_rcv_synsent_state_process in net/ipv4/tcp_input.c).
func dialSlowly(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) })
		return err
	}}
	c, err := dialer.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	client := c.(*net.TCPConn)
	t.Cleanup(func() { abortConn(client) })
	if err := client.SetDeadline(time.Now().Add(testPatience)); err != nil {
		t.Fatal(err)
	}
	return client
}

// refused says whether nobody listens there.
func refused(at netip.AddrPort) bool {
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(at))
	if err == nil {
		abortConn(c)
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

func wantRefused(t *testing.T, at netip.AddrPort) {
	t.Helper()
	nettest.Eventually(t, "new connections are refused", func() bool { return refused(at) })
}

// A listener that goes may be of a family that the split has no backend for any
// more. An off must not wait until it has gone.
func TestWeightsAreSetWhileAListenerOfAFamilyThatIsNoMoreGoes(t *testing.T) {
	four, six := families()["IPv4"], families()["IPv6"]
	service := netip.AddrPortFrom(four, freePort())
	old4, old6 := startServer(t, four, greeter('o')), startServer(t, six, greeter('o'))
	new4, new6 := startServer(t, four, greeter('n')), startServer(t, six, greeter('n'))
	split := newSplit("mx", service, old4, map[string]candidate{"new": {new4, traffic.Whole}})
	both := split
	both.Service.Addresses = []netip.Addr{four, six}
	both.Primary = remote("old", old4)
	both.Primary.Addresses = append(both.Primary.Addresses, remote("old", old6).Addresses...)
	both.Candidates = slices.Clone(split.Candidates)
	both.Candidates[0].Addresses = append(slices.Clone(split.Candidates[0].Addresses), remote("new", new6).Addresses...)
	r := startRelay(t, Options{}, both)
	var late *net.TCPConn
	nettest.Eventually(t, "the listener of IPv6 is going", func() bool {
		r.apply(both)
		late = dialSlowly(t, netip.AddrPortFrom(six, service.Port()))
		r.apply(split)
		r.mu.Lock()
		f := r.fronts[tcpSpot(netip.AddrPortFrom(six, service.Port()))]
		going := f != nil && f.leave != nil
		r.mu.Unlock()
		if going {
			r.setWeights(split, map[string]traffic.Weight{"new": 0})
		}
		return going
	})
	if letter, err := greeting(service); letter != 'o' || err != nil {
		t.Errorf("after an off %q serves, %v", letter, err)
	}
	letter := make([]byte, 1)
	if _, err := late.Read(letter); err != nil || letter[0] != 'o' {
		t.Errorf("who was on the way in is served by %q, %v; want the primary", letter, err)
	}
}
