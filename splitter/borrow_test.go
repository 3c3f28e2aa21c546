package splitter

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// aClient is an address of the loopback that the relay itself never has.
func aClient(t *testing.T, family string) netip.Addr {
	t.Helper()
	if family == "IPv4" {
		return netip.MustParseAddr("127.0.0.9")
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("fd00:9::9/128")
	if err != nil {
		t.Fatal(err)
	}
	address.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrReplace(lo, address); err != nil {
		t.Fatal(err)
	}
	return netip.MustParseAddr("fd00:9::9")
}

func transparent(s traffic.Split) traffic.Split {
	s.Proxy.Transparent = true
	return s
}

// tellPeer says who has connected, and waits for the end.
func tellPeer(c *net.TCPConn) {
	_, _ = fmt.Fprintln(c, c.RemoteAddr())
	_, _ = io.Copy(io.Discard, c)
	_ = c.Close()
}

// askPeer is who the backend of a new connection saw.
func askPeer(t *testing.T, client netip.Addr, service netip.AddrPort) (netip.AddrPort, error) {
	t.Helper()
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: client.AsSlice()}, net.TCPAddrFromAddrPort(service))
	if err != nil {
		return netip.AddrPort{}, err // a reset may overtake connect(2)
	}
	defer abortConn(c)
	_ = c.SetDeadline(time.Now().Add(testPatience))
	var peer string
	if _, err := fmt.Fscanln(c, &peer); err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(peer)
}

func TestBackendsOfATransparentSplitSeeTheClientsAddress(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			client := aClient(t, family)
			service := netip.AddrPortFrom(ip, freePort())
			r := startRelay(t, Options{LegMark: 1 << 20, Draw: seededDraw(1)}, transparent(newSplit("mx", service, startServer(t, ip, tellPeer),
				map[string]candidate{"new": {address: startServer(t, ip, tellPeer), weight: 500_000}})))
			const connections = 400
			for range connections {
				peer, err := askPeer(t, client, service)
				if err != nil {
					t.Fatal(err)
				}
				if peer.Addr() != client || peer.Port() < borrowFirst || peer.Port() > borrowLast {
					t.Fatalf("a backend saw %s, want %s and a port of %d to %d", peer, client, borrowFirst, borrowLast)
				}
			}
			if a, b := r.numbers("old"), r.numbers("new"); a.Flows+b.Flows != connections || b.Flows == 0 || a.Failed+b.Failed > 0 {
				t.Errorf("old: %+v, new: %+v, want %d flows of both and no failed connect", a, b, connections)
			}
			r.apply(newSplit("mx", service, startServer(t, ip, tellPeer), nil))
			if peer, err := askPeer(t, client, service); err != nil || peer.Addr() == client {
				t.Errorf("when it is transparent no more, the backend sees %s, %v", peer, err)
			}
		})
	}
}

func TestATransparentSplitMaySendHeadersToo(t *testing.T) {
	ip, client := families()["IPv4"], aClient(t, "IPv4")
	heard, peers := make(chan told, 1), make(chan netip.AddrPort, 1)
	greet := expecting('o', heard)
	at := netip.AddrPortFrom(ip, freePort())
	split := transparent(newSplit("mx", netip.AddrPortFrom(wildcard(ip), at.Port()), startServer(t, ip, func(c *net.TCPConn) {
		peers <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
		greet(c)
	}), nil))
	split.Proxy.SendProxy = traffic.SendProxyV2
	startRelay(t, Options{}, split)
	c := dialFrom(t, client, at)
	if diff := cmp.Diff(told{2, c.LocalAddr().String(), at.String()}, <-heard); diff != "" {
		t.Errorf("the header (-want +got):\n%s", diff)
	}
	if peer := <-peers; peer.Addr() != client {
		t.Errorf("the backend saw %s, want %s", peer, client)
	}
}

// The client is whom an accepted header names. One of another family than the
// backend's has no address that the backend could see.
func TestATransparentSplitBehindProxiesShowsTheClientOfTheHeader(t *testing.T) {
	ip, client := families()["IPv4"], aClient(t, "IPv4")
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{}, transparent(behindProxies(ip, newSplit("mx", service, startServer(t, ip, tellPeer), nil))))
	c := dial(t, service)
	write(t, c, text(netip.AddrPortFrom(client, 50_000).String()))
	var peer string
	if _, err := fmt.Fscanln(c, &peer); err != nil || netip.MustParseAddrPort(peer).Addr() != client {
		t.Errorf("the backend saw %q, %v, want %s", peer, err, client)
	}
	other := dial(t, service)
	write(t, other, text("[2001:db8::7]:50000"))
	awaitReset(t, other)
	if got := r.Refusals()["mx"][traffic.RefusedOtherFamily]; got != 1 || r.Faults() != (Faults{}) || r.numbers("old").Failed != 0 {
		t.Errorf("a client of the other family: %d are refused, faults %+v, backend %+v; want 1 and nothing else", got, r.Faults(), r.numbers("old"))
	}
	nettest.Eventually(t, "the log says why", func() bool {
		return strings.Contains(r.logs.String(), "of the other family than the address that was asked")
	})
}

// deniedEdge fails attempts with the client's address.
type deniedEdge struct {
	system
	left  atomic.Int64
	cause atomic.Pointer[syscall.Errno]
	plain atomic.Int64 // attempts without
}

func (d *deniedEdge) deny(cause syscall.Errno, times int64) {
	d.cause.Store(&cause)
	d.left.Store(times)
}

func (d *deniedEdge) connectAs(from, to *endpoint, mark uint32) (int, syscall.Errno) {
	if d.left.Add(-1) >= 0 {
		return 0, *d.cause.Load()
	}
	return d.system.connectAs(from, to, mark)
}

func (d *deniedEdge) connect(to *endpoint) (int, syscall.Errno) {
	d.plain.Add(1)
	return d.system.connect(to)
}

func TestAPortThatIsTakenCostsNobodyAnything(t *testing.T) {
	ip, client := families()["IPv4"], aClient(t, "IPv4")
	for _, cause := range []syscall.Errno{unix.EADDRINUSE, unix.EADDRNOTAVAIL} {
		service := netip.AddrPortFrom(ip, freePort())
		denied := &deniedEdge{}
		r := startRelay(t, Options{Workers: 1, edge: func() edge { return denied }}, transparent(newSplit("mx", service, closedPort(ip),
			map[string]candidate{"new": {address: startServer(t, ip, tellPeer), weight: traffic.Whole}})))
		for _, times := range []int64{1, borrowTries - 1, borrowTries} {
			denied.deny(cause, times)
			peer, err := askPeer(t, client, service)
			if err != nil || peer.Addr() != client {
				t.Errorf("%d ports are taken (%v): the backend saw %s, %v", times, cause, peer, err)
			}
		}
		if got, faults := r.numbers("new"), r.Faults(); got.Failed != 0 || faults.Dials != 0 {
			t.Errorf("candidate: %+v, faults: %+v; want none failed", got, faults)
		}
	}
}

func TestWhatThisHostDeniesATransparentSplitEjectsNobody(t *testing.T) {
	ip, client := families()["IPv4"], aClient(t, "IPv4")
	for _, tc := range []struct {
		cause syscall.Errno
		says  string
	}{
		{unix.EADDRNOTAVAIL, "short of ports"}, {unix.EPERM, "CAP_NET_ADMIN"}, {unix.EINVAL, "no address that a connection"},
	} {
		service := netip.AddrPortFrom(ip, freePort())
		denied := &deniedEdge{}
		r := startRelay(t, Options{Workers: 1, edge: func() edge { return denied }}, transparent(newSplit("mx", service, startServer(t, ip, tellPeer),
			map[string]candidate{"new": {address: startServer(t, ip, tellPeer), weight: traffic.Whole}})))
		denied.deny(tc.cause, 1<<40)
		const refused = 2 * circuitFailures
		for range refused {
			if _, err := askPeer(t, client, service); !isReset(err) {
				t.Fatalf("%v: client got %v, want a reset: a backend must not take it for the relay's own", tc.cause, err)
			}
		}
		if got := r.Faults().Dials; got != 2*refused {
			t.Errorf("%v: %d dials failed for faults of this host, want %d: both backends of each", tc.cause, got, 2*refused)
		}
		denied.deny(tc.cause, 0)
		if peer, err := askPeer(t, client, service); err != nil || peer.Addr() != client {
			t.Errorf("%v: afterwards the backend saw %s, %v", tc.cause, peer, err)
		}
		if old, candidate := r.numbers("old"), r.numbers("new"); candidate.Flows != 1 || old.Failed+candidate.Failed != 0 {
			t.Errorf("%v: old: %+v, new: %+v; want one flow at the candidate, none failed", tc.cause, old, candidate)
		}
		nettest.Eventually(t, "the log says why", func() bool { return strings.Contains(r.logs.String(), tc.says) })
	}
}

// Nobody's address is used to find out whether a candidate is there again.
func TestProbesOfATransparentSplitHaveTheRelaysAddress(t *testing.T) {
	ip, client := families()["IPv4"], aClient(t, "IPv4")
	service := netip.AddrPortFrom(ip, freePort())
	counting := &deniedEdge{}
	startRelay(t, Options{Workers: 1, edge: func() edge { return counting }}, transparent(newSplit("mx", service, startServer(t, ip, tellPeer),
		map[string]candidate{"new": {address: closedPort(ip), weight: traffic.Whole}})))
	nettest.Eventually(t, "the candidate is probed", func() bool {
		if peer, err := askPeer(t, client, service); err != nil || peer.Addr() != client {
			t.Fatalf("the primary saw %s, %v", peer, err)
		}
		return counting.plain.Load() > 0
	})
}

func TestATransparentSplitIsRefusedWithoutTheCapability(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := transparent(newSplit("mx", service, startServer(t, ip, tellPeer), nil))
	r := startRelay(t, Options{})
	refused := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its lack
		if err := dropCapabilities(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW); err != nil {
			refused <- err
			return
		}
		refused <- r.Apply(t.Context(), []traffic.Split{split})
	}()
	err := <-refused
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), `split "mx": proxy.transparent needs CAP_NET_ADMIN: run splitd as root, grant the capability`) {
		t.Errorf("Apply() = %v, want EPERM and its cure", err)
	}
	if _, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a client of the refused split got %v", err)
	}
}

func TestATransparentSplitHasNoUDP(t *testing.T) {
	ip := families()["IPv4"]
	split := transparent(newSplit("dns", netip.AddrPortFrom(ip, freePort()), closedPort(ip), nil))
	split.Service.Ports = append(split.Service.Ports, traffic.Port{Number: freePort(), Transport: traffic.UDP})
	err := startRelay(t, Options{}).Apply(t.Context(), []traffic.Split{split})
	if want := "flows of udp do not keep the client's address"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Apply() = %v, want %q", err, want)
	}
}

// dropCapabilities takes them from the calling thread.
func dropCapabilities(which ...int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}
	for _, c := range which {
		sets[0].Effective &^= 1 << c
	}
	return unix.Capset(&header, &sets[0])
}
