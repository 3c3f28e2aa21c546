package splitter

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestAHalfClosedFlowThatIsSilentEndsAfterItsOwnTimeout(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], func(p *traffic.Proxy) { p.HalfClosedTimeout = idle })
	half := func() pair {
		p := connect(t)
		if err := p.client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	silent, whole := half(), connect(t)
	if _, err := io.Copy(io.Discard, silent.client); !isReset(err) {
		t.Errorf("the silent client's end: %v, want a reset", err)
	}
	awaitReset(t, silent.server)
	nettest.Eventually(t, "this machine sends a byte in time, four times in a row", func() bool {
		p := half()
		slowest, err := drip(p.server, p.client, 4, idle/2)
		if err != nil && slowest < idle-2*idleGrain {
			t.Fatalf("a half-closed flow with a byte every %v was cut off: %v", slowest, err)
		}
		return err == nil
	})
	if err := talk(whole.client, whole.server); err != nil {
		t.Errorf("a flow of which neither side has ended: %v", err)
	}
}

func TestABackendThatSendsNoFirstByteInTimeLosesTheFlow(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	hangs := startServer(t, ip, func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {hangs, traffic.Whole}})
	split.Proxy.FirstByteTimeout = 2 * time.Second // the primary answers before, also on a busy machine
	r := startRelay(t, Options{}, split)
	var clients []*net.TCPConn
	for range circuitFailures {
		c := dial(t, service)
		if _, err := c.Write([]byte("hello?")); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Fatalf("client got %v, want a reset", err)
		}
	}
	c := dial(t, service)
	exchange(t, c, "the circuit is open: the primary serves")
	if got := r.numbers("new"); got.Flows != circuitFailures {
		t.Errorf("the candidate has had %d flows, want %d", got.Flows, circuitFailures)
	}
	silent := dial(t, service) // its backend is never asked and has nothing to say
	if _, err := silent.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("a client that got no byte either: %v, want a reset", err)
	}
	exchange(t, c, "a backend that has spoken may take its time")
}

func TestConnectionsInheritThePatienceWithTheirPeers(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	r := startRelay(t, Options{Workers: 1}, split)
	for _, want := range []time.Duration{0, time.Minute, 2 * time.Minute} {
		split.Proxy.PeerTimeout = want
		r.apply(split)
		exchange(t, dial(t, service), "hello")
		r.inspect(func(w *worker) {
			f := w.flows.at(w.flows.free[len(w.flows.free)-1] - 1) // the newest
			got, err := unix.GetsockoptInt(int(f.sockets[client]), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			keeps, err2 := unix.GetsockoptInt(int(f.sockets[client]), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			if err != nil || err2 != nil || time.Duration(got)*time.Millisecond != want || keeps != 1 {
				t.Errorf("client's socket: user timeout %d ms, want %v; keep-alive %d; %v %v", got, want, keeps, err, err2)
			}
		})
	}
}

func TestASilentPeerIsAskedOftenEnoughToBeGivenUpWhenItsTimeIsOver(t *testing.T) {
	for patience, want := range map[time.Duration]time.Duration{
		0: 15 * time.Second, 5 * time.Minute: 15 * time.Second, time.Minute: 15 * time.Second,
		20 * time.Second: 5 * time.Second, 5 * time.Second: time.Second, 10 * time.Millisecond: time.Second,
	} {
		if got := keepPace(patience); got != want {
			t.Errorf("with a patience of %v it is asked every %v, want %v", patience, got, want)
		}
	}
}
