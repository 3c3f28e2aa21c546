package splitter

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

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
			counted := map[byte]int{'o': int(r.flowsOf("mx", "old")), 'n': int(r.flowsOf("mx", "new"))}
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

// A stray connection is one that reached a backend which none of the weights
// that were in force between its begin and its end allows.
func TestTwoThousandWeightChangesUnderLoadLoseAndStrayNoConnection(t *testing.T) {
	const changes = 2000
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{
		"new": {startServer(t, ip, greeter('n')), 0}, "newer": {startServer(t, ip, greeter('m')), 0},
	})
	r := startRelay(t, Options{Draw: seededDraw(3)}, split)
	phases := []struct {
		weights map[string]traffic.Weight
		allowed string
	}{
		{map[string]traffic.Weight{"new": 0, "newer": 0}, "o"},
		{map[string]traffic.Weight{"new": traffic.Whole, "newer": 0}, "n"},
		{map[string]traffic.Weight{"new": 0, "newer": traffic.Whole}, "m"},
		{map[string]traffic.Weight{"new": traffic.Whole / 2, "newer": traffic.Whole / 2}, "nm"},
	}
	var begun, applied, served atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 6 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first := applied.Load()
				letter, err := greeting(service)
				last := begun.Load()
				served.Add(1)
				if err != nil {
					t.Errorf("connection failed: %v", err)
					return
				}
				allowed := ""
				for i := first; i <= last; i++ {
					allowed += phases[i%int64(len(phases))].allowed
				}
				if !contains(allowed, letter) {
					t.Errorf("stray connection: served by %q during changes %d to %d, which allow %q", letter, first, last, allowed)
				}
			}
		})
	}
	for i := int64(1); i <= changes && !t.Failed(); i++ {
		before := served.Load()
		begun.Store(i)
		if weights := phases[i%int64(len(phases))].weights; i%8 == 0 {
			whole, err := split.WithWeights(weights)
			if err != nil {
				t.Fatal(err)
			}
			r.apply(whole)
		} else {
			r.setWeights(split, weights)
		}
		applied.Store(i)
		eventually(t, testPatience, "a connection is served", func() bool { return served.Load() > before || t.Failed() })
	}
	close(stop)
	load.Wait()
	var counted uint64
	for _, c := range r.Counts() {
		counted += c.Flows
	}
	if counted != uint64(served.Load()) {
		t.Errorf("Counts has %d flows, clients made %d", counted, served.Load())
	}
}

func contains(letters string, letter byte) bool {
	for i := range len(letters) {
		if letters[i] == letter {
			return true
		}
	}
	return false
}
