package netfilter

import (
	"math"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// plausible says whether hits of n draws lie within the 99.9 % interval of the
// binomial distribution with that weight. The normal approximation gets a
// margin of three for the small shares, where it is too narrow.
func plausible(hits, n int, weight traffic.Weight) bool {
	p := float64(weight) / float64(traffic.Whole)
	mean, deviation := p*float64(n), math.Sqrt(p*(1-p)*float64(n))
	if deviation == 0 {
		return float64(hits) == mean
	}
	return math.Abs(float64(hits)-mean) <= 3.29*deviation+3
}

func TestTheObservedShareIsTheWeightSet(t *testing.T) {
	lab := newSplitLab(t)
	lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	lab.serveAll()
	lab.apply(localSplit(1, 0))
	const connections = 20_000
	var flows uint64
	for i, weight := range []traffic.Weight{0, 1_000, 50_000, 500_000, 999_000, traffic.Whole} {
		s := localSplit(traffic.Generation(i+2), weight)
		lab.setWeights(s)
		got := lab.load(connections, nil, service25v4, service25v6)
		if len(got.failed) > 0 {
			t.Fatalf("%s: %d connections failed, the first: %v", weight, len(got.failed), got.failed[0])
		}
		if got.by[fromNew]+got.by[fromLocal] != connections || !plausible(got.by[fromNew], connections, weight) {
			t.Errorf("%s: %d of %d connections reached the candidate, %d stayed", weight, got.by[fromNew], connections, got.by[fromLocal])
		}
		flows += uint64(got.by[fromNew])
		// A client that takes a port again within a second meets conntrack's
		// old entry now and then: no new flow for the kernel.
		if counted := lab.counts(s)["new"].Flows; counted > flows || flows-counted > connections/1000 {
			t.Errorf("%s: counter of the candidate is %d, connections were %d", weight, counted, flows)
		}
	}
}

func (lab *splitLab) counts(s traffic.Split) map[string]traffic.Counts {
	lab.t.Helper()
	byName := map[string]traffic.Counts{}
	lab.router.Do(func() error {
		counts, err := lab.kernel.Counts(lab.t.Context(), []traffic.Split{s})
		for key, c := range counts {
			byName[key.Backend] = c
		}
		return err
	})
	return byName
}

// A weight that is changed all the time under load: no connection fails, and
// none escapes to the service on the router itself, which neither the old nor
// the new weights allow.
func TestAWeightChangedTwoThousandTimesLosesNoConnection(t *testing.T) {
	lab := newSplitLab(t)
	lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	lab.serveAll()
	lab.apply(remoteSplit(1, 300_000))
	early, letter := lab.dial(service25v4)
	stop, done := make(chan struct{}), make(chan answers)
	go func() { done <- lab.load(0, stop, service25v4, service25v6) }()
	weights := []traffic.Weight{0, 300_000, 1, traffic.Whole, 999_999}
	const changes = 2000
	for i := range changes {
		lab.setWeights(remoteSplit(traffic.Generation(i+2), weights[i%len(weights)]))
		lab.clock.advance(retireAfter / 100)
	}
	close(stop)
	got := <-done
	if len(got.failed) > 0 {
		t.Errorf("%d connections failed, the first: %v", len(got.failed), got.failed[0])
	}
	if got.by[fromLocal] > 0 || got.by[fromOld] == 0 || got.by[fromNew] == 0 {
		t.Errorf("answers: %d old, %d new, %d escaped", got.by[fromOld], got.by[fromNew], got.by[fromLocal])
	}
	if err := echoes(early); err != nil {
		t.Errorf("the connection to %c from before the changes: %v", letter, err)
	}
	if n := len(lab.versions()); n > 102 {
		t.Errorf("%d versions stand in the kernel after %d changes", n, changes)
	}
	t.Logf("connections: %d", got.by[fromOld]+got.by[fromNew])
}

// versions lists the versions of the split mx that the kernel holds.
func (lab *splitLab) versions() []int {
	lab.t.Helper()
	var versions []int
	lab.router.Do(func() error {
		lab.kernel.mu.Lock() // Run may be at work
		defer lab.kernel.mu.Unlock()
		have, err := lab.kernel.link.observe(everything)
		for _, name := range have.chainNames() {
			if owner, version, ok := versionOf(name); ok && owner == "mx" {
				versions = append(versions, version)
			}
		}
		return err
	})
	return versions
}
