package splitter

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

func TestAHalfClosedFlowThatIsSilentEndsAfterItsOwnTimeout(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], func(p *traffic.Proxy) { p.HalfClosedTimeout = idle })
	p, silent, whole := connect(t), connect(t), connect(t)
	for _, half := range []pair{p, silent} {
		if err := half.client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, silent.client)
		ended <- err
	}()
	begin := time.Now()
	for waiting := true; waiting; { // bytes keep it open for longer than the silent one
		select {
		case err := <-ended:
			waiting = false
			if !isReset(err) {
				t.Errorf("the silent client's end: %v, want a reset", err)
			}
		default:
		}
		if _, err := p.server.Write([]byte("more")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(p.client, make([]byte, 4)); err != nil {
			t.Fatalf("after %v: %v", time.Since(begin), err)
		}
	}
	if _, err := io.Copy(io.Discard, p.client); !isReset(err) {
		t.Errorf("client's end: %v, want a reset", err)
	}
	awaitReset(t, p.server)
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
	split.Proxy.FirstByteTimeout = idle
	r := startRelay(t, Options{}, split)
	for range circuitFailures {
		c := dial(t, service)
		if _, err := c.Write([]byte("hello?")); err != nil {
			t.Fatal(err)
		}
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
