package netfilter

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// severalSplits are splits of ports 1001 and on, each with one of the weights.
func severalSplits(generation traffic.Generation, weights ...traffic.Weight) []traffic.Split {
	var all []traffic.Split
	for i, weight := range weights {
		s := remoteSplit(generation, weight)
		s.Name = fmt.Sprintf("s%d", i+1)
		s.Service.Ports = []traffic.Port{{Number: uint16(1001 + i), Transport: traffic.TCP}}
		all = append(all, s)
	}
	return all
}

func statesOf(splits []traffic.Split) map[string]SplitState {
	states := map[string]SplitState{}
	for _, s := range splits {
		states[s.Name] = stateOf(s)
	}
	return states
}

func TestManySplitsChangeWeightInTwoTransactionsAndGoToZeroInOne(t *testing.T) {
	lab := newSplitLab(t)
	lab.apply(severalSplits(1, 10_000, 0, traffic.Whole, 500_000)...)
	for _, tc := range []struct {
		name         string
		splits       []traffic.Split
		transactions uint32
	}{
		{"raised and lowered", severalSplits(2, 20_000, 1, 0, traffic.Whole), 2},
		{"all to zero", severalSplits(3, 0, 0, 0, 0), 1},
		{"the same again", severalSplits(3, 0, 0, 0, 0), 0},
		{"none", nil, 0},
	} {
		before := lab.generation()
		lab.setWeights(tc.splits...)
		if after := lab.generation(); after != before+tc.transactions {
			t.Errorf("%s: %d transactions, want %d", tc.name, after-before, tc.transactions)
		}
		if tc.splits == nil {
			continue
		}
		if diff := cmp.Diff(statesOf(tc.splits), lab.read()); diff != "" {
			t.Errorf("%s: read (-want +got):\n%s", tc.name, diff)
		}
		if lines := lab.differences(tc.splits...); len(lines) > 0 {
			t.Errorf("%s: differences: %q", tc.name, lines)
		}
	}
}

func TestWeightsOfManySplitsChangeNothingWhenOneIsNotInTheKernel(t *testing.T) {
	lab := newSplitLab(t)
	before := severalSplits(1, 10_000, 0, traffic.Whole)
	lab.apply(before...)
	for _, weight := range []traffic.Weight{0, 30_000} {
		another := severalSplits(2, weight, weight, weight)
		another[2].Primary.Name, another[2].Candidates[0].Name = "older", "newer"
		missing := severalSplits(2, weight, weight, weight, weight)
		for name, splits := range map[string][]traffic.Split{"s3": another, "s4": missing} {
			for _, room := range []int{lab.kernel.link.room, 1} { // 1: each step has a transaction of its own
				lab.kernel.link.room = room
				generation := lab.generation()
				lab.router.Do(func() error {
					err := lab.kernel.SetWeights(t.Context(), splits...)
					want := fmt.Sprintf("set weights of %d splits in the kernel: split %q: %v", len(splits), name, ErrNotInKernel)
					if !errors.Is(err, ErrNotInKernel) || len(err.Error()) < len(want) || err.Error()[:len(want)] != want {
						t.Errorf("error is\n%v, want\n%s", err, want)
					}
					return nil
				})
				if after := lab.generation(); after != generation {
					t.Errorf("%d transactions were made", after-generation)
				}
			}
		}
	}
	if diff := cmp.Diff(statesOf(before), lab.read()); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func TestWeightsOfMoreSplitsThanATransactionHoldsAreSet(t *testing.T) {
	lab := newSplitLab(t)
	lab.apply(severalSplits(1, 10_000, 0, traffic.Whole)...)
	lab.kernel.link.room = 1
	after := severalSplits(2, 0, 5_000, 6_000)
	lab.setWeights(after...)
	if lines := lab.differences(after...); len(lines) > 0 {
		t.Errorf("differences: %q", lines)
	}
	lab.clock.advance(2 * retireAfter)
	lab.apply(after...)
	if lines := lab.differences(after...); len(lines) > 0 {
		t.Errorf("differences after the old versions are gone: %q", lines)
	}
}
