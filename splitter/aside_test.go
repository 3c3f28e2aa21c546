package splitter

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// hold keeps a worker from everything until the returned function is called, as one
// that has very many clients to let in.
func (w *worker) hold(t *testing.T) (release func()) {
	t.Helper()
	busy, free := make(chan struct{}), make(chan struct{})
	w.post(func() {
		close(busy)
		<-free
	})
	<-busy
	release = sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	return release
}

// withinPatience does something that must not wait.
func withinPatience(t *testing.T, what string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(testPatience / 6):
		t.Fatalf("%s waits", what)
	}
}

// An off must not wait until all have been let in who wait at a listener that goes:
// of another split, or of its own that has moved.
func TestWeightsAreSetWhileAListenerThatGoesLetsItsClientsIn(t *testing.T) {
	ip := families()["IPv4"]
	for _, transport := range []traffic.Transport{traffic.TCP, traffic.UDP} {
		t.Run(string(transport), func(t *testing.T) {
			old, trial := startServer(t, ip, greeter('o')), startServer(t, ip, greeter('n'))
			here := func(name string, at netip.AddrPort) traffic.Split {
				return newSplit(name, at, old, map[string]candidate{"new": {trial, traffic.Whole}})
			}
			of := func(s traffic.Split) traffic.Split {
				if transport == traffic.UDP {
					return ofUDP(s)
				}
				return s
			}
			service, gone, before := netip.AddrPortFrom(ip, freePort()), netip.AddrPortFrom(ip, freePort()), netip.AddrPortFrom(ip, freePort())
			stays, moves := here("mx", service), of(here("moves", before))
			r := startRelay(t, Options{Workers: 1}, stays, of(here("goes", gone)), moves)
			release := r.workers[0].hold(t)
			removed := make(chan error, 1)
			moves.Service.Ports[0].Number = freePort()
			go func() { removed <- r.Apply(t.Context(), []traffic.Split{stays, moves}) }()
			nettest.Eventually(t, "two listeners are going", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				going := 0
				for _, f := range r.fronts {
					if f.goes {
						going++
					}
				}
				return going == 2
			})
			off := map[string]traffic.Weight{"new": 0}
			withinPatience(t, "an off", func() {
				r.setWeights(stays, off)
				r.setWeights(moves, off)
				r.Counts()
				r.Faults()
			})
			select {
			case err := <-removed:
				t.Errorf("Apply has returned %v before the listeners had gone", err)
			default:
			}
			release()
			if err := <-removed; err != nil {
				t.Fatal(err)
			}
			if letter, err := greeting(service); letter != 'o' || err != nil {
				t.Errorf("after the off %q serves, %v", letter, err)
			}
			if left := len(r.fronts); left != 2 {
				t.Errorf("%d listeners are left, want 2", left)
			}
		})
	}
}

// They are of the same split, and drawn as it says now.
func TestWhoWaitsAtAListenerThatGoesIsDrawnWithTheNewestWeights(t *testing.T) {
	ip := families()["IPv4"]
	before := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", before, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, greeter('n')), traffic.Whole}})
	r := startRelay(t, Options{Workers: 1}, split)
	release := r.workers[0].hold(t)
	waits := dial(t, before)
	moved := split
	moved.Service.Ports = []traffic.Port{{Number: freePort(), Transport: traffic.TCP}}
	moved.Proxy.PeerTimeout = time.Minute // so that listeners are told
	applied := make(chan error, 1)
	go func() { applied <- r.Apply(t.Context(), []traffic.Split{moved}) }()
	nettest.Eventually(t, "the listener is closing", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		f := r.fronts[tcpSpot(before)]
		return f != nil && f.closing
	})
	withinPatience(t, "an off", func() { r.setWeights(moved, map[string]traffic.Weight{"new": 0}) })
	release()
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	letter := make([]byte, 1)
	if _, err := waits.Read(letter); err != nil || letter[0] != 'o' {
		t.Errorf("served by %q, %v, want the primary", letter, err)
	}
}
