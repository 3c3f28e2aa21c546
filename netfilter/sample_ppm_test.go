package netfilter

import (
	"fmt"
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// samplesByPPM are the smallest and the largest, and one in the middle.
var samplesByPPM = []traffic.Weight{1, 2, 500_001, 999_999, traffic.Whole}

// The kernel draws of a million numbers, and the sample has as many of them, from the
// lowest on, as it has ppm.
func TestTheRulesOfASampleTakeAsManyNumbersOfAMillionAsItHasPPM(t *testing.T) {
	for _, affinity := range []traffic.Affinity{traffic.AffinityNone, traffic.AffinitySource} {
		for _, sample := range samplesByPPM {
			s := sampledSplit(localSplit(1, 50_000), sample)
			s.Affinity, s.AffinityPrefix = affinity, traffic.AffinityPrefix{IPv4: 24, IPv6: 64}
			numbers := fmt.Sprintf("0-%d", sample-1)
			if sample == 1 {
				numbers = "0"
			}
			want := []string{"numgen random mod 1000000 vmap { " + numbers + " : goto split/mx/sampled }"}
			if affinity == traffic.AffinitySource {
				verdict := fmt.Sprintf("mod 1000000 seed 0x%x vmap { %s : goto split/mx/sampled }", s.SampleSeed(), numbers)
				want = []string{"meta nfproto ipv4 jhash @nh,96,24 " + verdict, "meta nfproto ipv6 jhash @nh,64,64 " + verdict}
			}
			var got []string
			for line := range strings.Lines(Build([]traffic.Split{s}, labSettings).Text()) {
				if line = strings.TrimSpace(line); strings.Contains(line, "goto split/mx/sampled }") {
					got = append(got, line)
				}
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("affinity %s, a sample of %s: the rules are\n%s\nwant\n%s", affinity, sample, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// A sample that the kernel has is read to the ppm, and changed by one.
func TestTheKernelKeepsASampleToThePPM(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.apply(sampledSplit(localSplit(1, 0), 3))
	for i, sample := range samplesByPPM {
		lab.setWeights(sampledSplit(localSplit(traffic.Generation(i+2), 1), sample))
		if got := lab.read()["mx"]; got.Sample != sample || got.Weights["new"] != 1 {
			t.Errorf("the kernel has a sample of %s and a weight of %s, want %s and 1 ppm", got.Sample, got.Weights["new"], sample)
		}
	}
}
