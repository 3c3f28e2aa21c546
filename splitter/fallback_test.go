package splitter

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// blackhole is an address whose SYNs are dropped: a listener with a full
// queue (tcp_conn_request in net/ipv4/tcp_input.c).
func blackhole(t *testing.T, ip netip.Addr) netip.AddrPort {
	t.Helper()
	_, at := fullListener(t, ip)
	return at
}

// fullListener is a blackhole until what waits at the listener is accepted.
func fullListener(t *testing.T, ip netip.Addr) (listener int, at netip.AddrPort) {
	t.Helper()
	at = netip.AddrPortFrom(ip, freePort())
	domain, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: ip.As16()})
	if ip.Is4() {
		domain, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: ip.As4()}
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, address), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	dial(t, at) // one more than the backlog is the most that it takes (sk_acceptq_is_full in include/net/sock.h)
	nettest.Eventually(t, "the queue is full", func() bool {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err == nil && info.Unacked > info.Sacked // of a listener: who waits, and the backlog (tcp_get_info in net/ipv4/tcp.c)
	})
	return fd, at
}

func TestPrimaryServesWhenTheCandidateCannotBeConnected(t *testing.T) {
	for family, ip := range families() {
		for name, candidateAt := range map[string]netip.AddrPort{"refused": closedPort(ip), "blackholed": blackhole(t, ip)} {
			t.Run(family+"/"+name, func(t *testing.T) {
				service := netip.AddrPortFrom(ip, freePort())
				split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {candidateAt, traffic.Whole}})
				split.Proxy.ConnectTimeout = 300 * time.Millisecond
				r := startRelay(t, Options{}, split)

				begin := time.Now()
				exchange(t, dial(t, service), "the client speaks first")
				if took := time.Since(begin); name == "blackholed" && took < 250*time.Millisecond {
					t.Errorf("first answer took %v, connect timeout is %v", took, split.Proxy.ConnectTimeout)
				}
				if diff := cmp.Diff(numbers{Flows: 0, Failed: 1}, r.numbers("new")); diff != "" {
					t.Errorf("candidate (-want +got):\n%s", diff)
				}
				if got := r.numbers("old"); got.Flows != 1 || got.Active != 1 || got.Failed != 0 {
					t.Errorf("primary = %+v, want the flow", got)
				}
			})
		}
	}
}

func TestClientIsResetWhenNobodyMayOrCanServeIt(t *testing.T) {
	ip := families()["IPv4"]
	up := startServer(t, ip, echo)
	for name, test := range map[string]struct {
		primary    netip.AddrPort
		fallback   traffic.Fallback
		weight     traffic.Weight
		oldF, newF uint64
	}{
		"candidate down, fallback none":    {up, traffic.FallbackNone, traffic.Whole, 0, 1},
		"candidate and primary down":       {closedPort(ip), traffic.FallbackPrimary, traffic.Whole, 1, 1},
		"primary down, candidate not used": {closedPort(ip), traffic.FallbackPrimary, 0, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, test.primary, map[string]candidate{"new": {closedPort(ip), test.weight}})
			split.Proxy.Fallback = test.fallback
			r := startRelay(t, Options{}, split)
			_, err := greeting(service)
			if !isReset(err) {
				t.Errorf("client got %v, want a reset", err)
			}
			got := []numbers{r.numbers("old"), r.numbers("new")}
			if diff := cmp.Diff([]numbers{{Failed: test.oldF}, {Failed: test.newF}}, got); diff != "" {
				t.Errorf("counts of primary and candidate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPanicInOneFlowCostsOnlyThatFlow(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	armed := make(chan struct{}, 1)
	draw := func() traffic.Weight {
		select {
		case <-armed:
			panic("the draw broke")
		default:
			return 0
		}
	}
	r := startRelay(t, Options{Draw: draw}, newSplit("mx", service, startServer(t, ip, echo), nil))
	bystander := dial(t, service)
	exchange(t, bystander, "before")
	armed <- struct{}{}
	if _, err := greeting(service); !isReset(err) {
		t.Errorf("client of the flow that panicked got %v, want a reset", err)
	}
	exchange(t, bystander, "after")
	exchange(t, dial(t, service), "a later one")
	if got := r.Faults(); got.Panics != 1 {
		t.Errorf("Faults() = %+v, want 1 panic", got)
	}
	nettest.Eventually(t, "the panic is logged with its stack", func() bool {
		log := r.logs.String()
		return strings.Contains(log, "the draw broke") && strings.Contains(log, "fallback_test.go")
	})
}

// The panic comes after bytes have moved, from a call of the kernel's.
func TestPanicInAPumpCutsBothSidesOff(t *testing.T) {
	broken := &brokenEdge{}
	ip := families()["IPv4"]
	accepted := make(chan *net.TCPConn, 2)
	service := netip.AddrPortFrom(ip, freePort())
	server := startServer(t, ip, func(c *net.TCPConn) { accepted <- c })
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return broken }}, newSplit("mx", service, server, nil))
	p := pair{client: dial(t, service), server: <-accepted}
	other := pair{client: dial(t, service), server: <-accepted}
	for _, each := range []pair{p, other} {
		t.Cleanup(func() { abortConn(each.server) })
		if err := talk(each.client, each.server); err != nil {
			t.Fatal(err)
		}
	}
	broken.armed.Store(true)
	if _, err := p.client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	awaitReset(t, p.client)
	awaitReset(t, p.server)
	if err := talk(other.client, other.server); err != nil {
		t.Errorf("the other flow: %v", err)
	}
	if got := r.Faults(); got.Panics != 1 {
		t.Errorf("Faults() = %+v, want 1 panic", got)
	}
	nettest.Eventually(t, "one flow is active", func() bool { return r.numbers("old").Active == 1 })
}

// brokenEdge panics once in a send, when it is armed.
type brokenEdge struct {
	system
	armed atomic.Bool
}

func (b *brokenEdge) send(socket int, bytes []byte) outcome {
	if b.armed.CompareAndSwap(true, false) {
		panic("the send broke")
	}
	return b.system.send(socket, bytes)
}
