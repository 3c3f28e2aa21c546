package netfilter

import (
	"math"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// An honest run of this package's tests may fail for its luck once in a
// thousand times: all its intervals together are the 99.9 % interval of the
// binomial distribution. The looks at what the kernel draws, which cannot be
// seeded, share that (Bonferroni): six weights, four samples and four smaller tests. The
// simulated draws are seeded and must lie within the 99.9 % interval each.
const (
	chanceOfARun  = 0.001
	unseededLooks = 14
	seededLooks   = 1
)

// plausible says whether hits of n draws lie within the exact central interval
// of the binomial distribution with that weight, where the run has so many
// looks.
func plausible(hits, n int, weight traffic.Weight, looks int) bool {
	low, high := binomialInterval(n, weight, chanceOfARun/float64(looks))
	return low <= hits && hits <= high
}

// binomialInterval is the central interval of the hits among n draws: below it
// and above it lies at most half of chance each.
func binomialInterval(n int, weight traffic.Weight, chance float64) (low, high int) {
	p := float64(weight) / float64(traffic.Whole)
	if p == 0 || p == 1 {
		return int(p) * n, int(p) * n
	}
	return firstOver(n, p, chance/2), n - firstOver(n, 1-p, chance/2)
}

// firstOver is the lowest k with P(X <= k) > tail: the sum of a tail by itself
// keeps its precision, however small it is.
func firstOver(n int, p, tail float64) int {
	sum := 0.0
	for k := range n {
		if sum += math.Exp(logChoose(n, k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p)); sum > tail {
			return k
		}
	}
	return n
}

func logChoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

func TestTheBinomialIntervalIsTheExactOne(t *testing.T) {
	for _, tc := range []struct {
		n         int
		weight    traffic.Weight
		chance    float64
		low, high int
	}{
		{10, 500_000, 0.001, 0, 10}, // 1/1024 > 0.0005
		{10, 500_000, 0.0020, 1, 9}, // 1/1024 <= 0.001 < 11/1024
		{10, 500_000, 0.0214, 1, 9}, // 11/1024 > 0.0107
		{10, 500_000, 0.0216, 2, 8}, // 11/1024 <= 0.0108
		{1000, 1_000, 0.001, 0, 6},  // P(X > 5) = 0.00059, P(X > 6) = 0.00008
		{1000, 999_000, 0.001, 994, 1000},
		{20_000, 0, 0.001, 0, 0},
		{20_000, traffic.Whole, 0.001, 20_000, 20_000},
	} {
		if low, high := binomialInterval(tc.n, tc.weight, tc.chance); low != tc.low || high != tc.high {
			t.Errorf("%d draws at %s, chance %g: %d to %d, want %d to %d", tc.n, tc.weight, tc.chance, low, high, tc.low, tc.high)
		}
	}
}

func TestTheObservedShareIsTheWeightSet(t *testing.T) {
	t.Parallel() // with the tests that wait for what must not come
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
		if got.by[fromNew]+got.by[fromLocal] != connections || !plausible(got.by[fromNew], connections, weight, unseededLooks) {
			t.Errorf("%s: %d of %d connections reached the candidate, %d stayed", weight, got.by[fromNew], connections, got.by[fromLocal])
		}
		t.Logf("%s: %d of %d", weight, got.by[fromNew], connections)
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

// both is a split of TCP and UDP.
func both(s traffic.Split) traffic.Split {
	s.Service.Ports = []traffic.Port{{Number: 25, Transport: traffic.TCP}, {Number: 53, Transport: traffic.UDP}}
	return s
}

// A weight that is changed all the time under load: no connection fails, no
// question by UDP goes without an answer, and none escapes to the service on
// the router itself, which neither the old nor the new weights allow.
func TestAWeightChangedTwentyThousandTimesLosesNoFlow(t *testing.T) {
	lab := newSplitLab(t)
	lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	lab.router.Sysctl("net/netfilter/nf_conntrack_udp_timeout", "1")
	lab.serveAll()
	lab.serveDNS()
	lab.apply(both(remoteSplit(1, 300_000)))
	early, letter := lab.dial(service25v4)
	stop, done := make(chan struct{}), make(chan answers)
	go func() { done <- lab.load(0, stop, service25v4, service25v6, service53v4, service53v6) }()
	weights := []traffic.Weight{0, 300_000, 1, traffic.Whole, 999_999}
	changes := load(20_000)
	for i := range changes {
		lab.setWeights(both(remoteSplit(traffic.Generation(i+2), weights[i%len(weights)])))
		lab.clock.advance(retireAfter / 100)
	}
	close(stop)
	got := <-done
	if len(got.failed) > 0 {
		t.Errorf("%d flows failed, the first: %v", len(got.failed), got.failed[0])
	}
	if got.by[fromLocal] > 0 || got.by[fromOld] == 0 || got.by[fromNew] == 0 {
		t.Errorf("answers: %d old, %d new, %d escaped", got.by[fromOld], got.by[fromNew], got.by[fromLocal])
	}
	if err := echoes(early); err != nil {
		t.Errorf("the connection to %c from before the changes: %v", letter, err)
	}
	if n := len(lab.versions()); n > leftoversMost+2 {
		t.Errorf("%d versions stand in the kernel after %d changes", n, changes)
	}
	t.Logf("flows: %d", got.by[fromOld]+got.by[fromNew])
}

// versions lists the versions of the split mx that the kernel holds.
func (lab *splitLab) versions() []int {
	lab.t.Helper()
	var versions []int
	lab.router.Do(func() error {
		lab.kernel.mu.Lock() // Run may be at work
		defer lab.kernel.mu.Unlock()
		have, err := lab.kernel.link.observe(everything)
		for _, name := range have.table(TableSplits).chainNames() {
			if owner, version, ok := versionOf(name); ok && owner == "mx" {
				versions = append(versions, version)
			}
		}
		return err
	})
	return versions
}
