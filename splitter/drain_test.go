package splitter

import (
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func drainFor(timeout time.Duration) func(*traffic.Proxy) {
	return func(p *traffic.Proxy) { p.DrainTimeout = timeout }
}

func (r *testRelay) returned(within time.Duration) bool {
	select {
	case <-r.done:
		return true
	case <-time.After(within):
		return false
	}
}

func TestDrainEndsWithTheLastFlow(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"long before the timeout": time.Minute, "without a timeout": 0} {
		t.Run(name, func(t *testing.T) {
			r, connect := startPairs(t, families()["IPv4"], drainFor(timeout))
			service := maps.Clone(r.fronts) // those that go leave the map
			p := connect(t)
			r.stop()
			for address := range service {
				nettest.Eventually(t, "new connections are refused", func() bool {
					c, err := net.Dial("tcp", address.String())
					if err == nil {
						_ = c.(*net.TCPConn).SetLinger(0)
						_ = c.Close()
					}
					return errors.Is(err, syscall.ECONNREFUSED)
				})
			}
			if r.returned(100 * time.Millisecond) {
				t.Fatal("Run returned under an open flow")
			}
			if err := talk(p.client, p.server); err != nil {
				t.Errorf("flow while draining: %v", err)
			}
			if err := errors.Join(p.client.CloseWrite(), p.server.CloseWrite()); err != nil {
				t.Fatal(err)
			}
			if !r.returned(testPatience) {
				t.Error("Run did not return after the last flow ended")
			}
			if _, err := io.Copy(io.Discard, p.client); err != nil {
				t.Errorf("client's end: %v, want a FIN", err)
			}
		})
	}
}

func TestDrainCutsOffWhatIsLeftAtEachSplitsDeadline(t *testing.T) {
	ip := families()["IPv4"]
	server := startServer(t, ip, echo)
	timeouts := map[string]time.Duration{"quick": 200 * time.Millisecond, "slow": 600 * time.Millisecond, "patient": time.Hour}
	var splits []traffic.Split
	clients := map[string]*net.TCPConn{}
	for name, timeout := range timeouts {
		s := newSplit(name, netip.AddrPortFrom(ip, freePort()), server, nil)
		s.Proxy.DrainTimeout = timeout
		splits = append(splits, s)
	}
	r := startRelay(t, Options{}, splits...)
	for _, s := range splits {
		clients[s.Name] = dial(t, netip.AddrPortFrom(ip, s.Service.Ports[0].Number))
		exchange(t, clients[s.Name], "hello")
	}
	begin := time.Now()
	r.stop()
	for _, name := range []string{"quick", "slow"} {
		_, err := io.Copy(io.Discard, clients[name])
		took := time.Since(begin)
		if !isReset(err) {
			t.Errorf("%s: %v, want a reset", name, err)
		}
		if took < timeouts[name]-time.Millisecond { // a tick
			t.Errorf("%s was cut off after %v, drain timeout is %v", name, took, timeouts[name])
		}
	}
	exchange(t, clients["patient"], "still here")
	abortConn(clients["patient"])
	if !r.returned(testPatience) {
		t.Error("Run did not return")
	}
}

func TestDrainCutsOffAFlowThatIsStillConnecting(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, closedPort(ip), map[string]candidate{"new": {blackhole(t, ip), traffic.Whole}})
	split.Proxy.ConnectTimeout = time.Minute
	r := startRelay(t, Options{}, split)
	c := dial(t, service)
	nettest.Eventually(t, "the flow has begun", func() bool { return r.openFlows() == 1 })
	r.stop()
	if _, err := io.Copy(io.Discard, c); !isReset(err) {
		t.Errorf("client's end: %v, want a reset", err)
	}
	if !r.returned(testPatience) {
		t.Error("Run did not return")
	}
	if got := r.numbers("new"); got.Failed != 0 {
		t.Errorf("the candidate has %d failed connects, want none: we gave up, not it", got.Failed)
	}
}

func TestStoppedRelayRefusesChanges(t *testing.T) {
	r := startRelay(t, Options{})
	r.stop()
	if !r.returned(testPatience) {
		t.Fatal("Run did not return")
	}
	if err := r.Apply(t.Context(), nil); !errors.Is(err, ErrStopped) {
		t.Errorf("Apply() = %v, want %v", err, ErrStopped)
	}
	if err := r.SetWeights(traffic.Split{}); !errors.Is(err, ErrStopped) {
		t.Errorf("SetWeights() = %v, want %v", err, ErrStopped)
	}
}

func TestFlowsThatDrainAreCutOffBothWaysOnRequest(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], drainFor(0))
	pairs := []pair{connect(t), connect(t)}
	r.stop()
	nettest.Eventually(t, "the relay drains", func() bool { return errors.Is(r.SetWeights(traffic.Split{}), ErrStopped) })
	if cut := r.Cut(); cut != len(pairs) {
		t.Errorf("Cut() = %d, want the %d open flows", cut, len(pairs))
	}
	for _, p := range pairs {
		for who, c := range map[string]*net.TCPConn{"client": p.client, "server": p.server} {
			if _, err := io.Copy(io.Discard, c); !isReset(err) {
				t.Errorf("the %s's end: %v, want a reset", who, err)
			}
		}
	}
	if !r.returned(testPatience) {
		t.Error("Run did not return")
	}
}
