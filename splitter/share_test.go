package splitter

import (
	"bytes"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestSharesOfRealConnectionsLieWithinTheBinomialInterval(t *testing.T) {
	v4, v6 := families()["IPv4"], families()["IPv6"]
	for i, share := range shares {
		t.Run(share, func(t *testing.T) {
			ip := v4
			if i%2 == 1 {
				ip = v6
			}
			weight, err := traffic.ParseWeight(share)
			if err != nil {
				t.Fatal(err)
			}
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, startServer(t, ip, greeter('o')),
				map[string]candidate{"new": {startServer(t, ip, greeter('n')), weight}})
			r := startRelay(t, Options{Draw: seededDraw(uint64(200 + i))}, split)

			const flows = 20_000 / 6
			seen := dialMany(t, service, flows, 8)
			if low, high := binomialInterval(flows, weight); seen['n'] < low || seen['n'] > high {
				t.Errorf("candidate served %d of %d, want %d to %d", seen['n'], flows, low, high)
			}
			counted := map[byte]int{'o': int(r.numbers("old").Flows), 'n': int(r.numbers("new").Flows)}
			if diff := cmp.Diff(map[byte]int{'o': seen['o'], 'n': seen['n']}, counted); diff != "" {
				t.Errorf("flows by Counts (-seen by clients +counted):\n%s", diff)
			}
		})
	}
}

// dialMany makes connections from several goroutines and counts their
// greetings.
func dialMany(t *testing.T, to netip.AddrPort, connections, workers int) map[byte]int {
	t.Helper()
	var mu sync.Mutex
	var begun atomic.Int64
	var group sync.WaitGroup
	seen := map[byte]int{}
	for range workers {
		group.Go(func() {
			for begun.Add(1) <= int64(connections) {
				letter, err := greeting(to)
				if err != nil {
					t.Errorf("connection failed: %v", err)
					return
				}
				mu.Lock()
				seen[letter]++
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return seen
}

// phase is a state of the weights and the letters of the backends it allows.
type phase struct {
	weights map[string]traffic.Weight
	allowed string
}

// changes counts the weight changes that have begun and those in force; change
// i brings phase i modulo their number.
type changes struct {
	phases         []phase
	begun, applied atomic.Int64
	served         atomic.Int64
}

// load makes connections until stop and fails the test for one that fails or
// strays: one that reached a backend which no weight allows that was in force
// between its begin and its end.
func (c *changes) load(t *testing.T, service netip.AddrPort, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		first := c.applied.Load()
		letter, err := greeting(service)
		last := c.begun.Load()
		c.served.Add(1)
		if err != nil {
			t.Errorf("connection failed: %v", err)
			return
		}
		var allowed []byte
		for i := first; i <= last; i++ {
			allowed = append(allowed, c.phases[i%int64(len(c.phases))].allowed...)
		}
		if !bytes.Contains(allowed, []byte{letter}) {
			t.Errorf("stray connection: served by %q during changes %d to %d, which allow %q", letter, first, last, allowed)
		}
	}
}

func TestTwoThousandWeightChangesUnderLoadLoseAndStrayNoConnection(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{
		"new": {startServer(t, ip, greeter('n')), 0}, "newer": {startServer(t, ip, greeter('m')), 0},
	})
	r := startRelay(t, Options{Draw: seededDraw(3)}, split)
	c := &changes{phases: []phase{
		{map[string]traffic.Weight{"new": 0, "newer": 0}, "o"},
		{map[string]traffic.Weight{"new": traffic.Whole, "newer": 0}, "n"},
		{map[string]traffic.Weight{"new": 0, "newer": traffic.Whole}, "m"},
		{map[string]traffic.Weight{"new": traffic.Whole / 2, "newer": traffic.Whole / 2}, "nm"},
	}}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 6 {
		load.Go(func() { c.load(t, service, stop) })
	}
	for i := int64(1); i <= 2000 && !t.Failed(); i++ {
		before := c.served.Load()
		c.begun.Store(i)
		if weights := c.phases[i%int64(len(c.phases))].weights; i%3 != 0 { // most by a reload, and every phase by both
			whole, err := split.WithWeights(weights)
			if err != nil {
				t.Fatal(err)
			}
			r.apply(whole)
		} else {
			r.setWeights(split, weights)
		}
		c.applied.Store(i)
		nettest.Eventually(t, "a connection is served", func() bool { return c.served.Load() > before || t.Failed() })
	}
	close(stop)
	load.Wait()
	var counted uint64
	for _, n := range r.Counts() {
		counted += n.Flows
	}
	if counted != uint64(c.served.Load()) {
		t.Errorf("Counts has %d flows, clients made %d", counted, c.served.Load())
	}
}
