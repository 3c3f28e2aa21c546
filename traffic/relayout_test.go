package traffic_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// reweighed is what Reweighed has to return, number by number: whoever has too
// much gives up its highest, and then each in turn takes the lowest that are free.
func reweighed(before traffic.Slots, candidates []traffic.Backend) traffic.Slots {
	owner := make([]string, traffic.Whole)
	for _, s := range before {
		for n := s.First; n <= s.Last; n++ {
			owner[n] = s.Candidate
		}
	}
	left := map[string]traffic.Weight{"": traffic.Whole}
	for _, c := range candidates {
		left[c.Name] = c.Weight
	}
	for n, name := range owner {
		if left[name] > 0 {
			left[name]--
		} else {
			owner[n] = ""
		}
	}
	for _, c := range candidates {
		for n := 0; n < len(owner) && left[c.Name] > 0; n++ {
			if owner[n] == "" {
				owner[n] = c.Name
				left[c.Name]--
			}
		}
	}
	return slotsOf(owner)
}

func slotsOf(owner []string) traffic.Slots {
	var slots traffic.Slots
	for n, name := range owner {
		switch {
		case name == "":
		case n > 0 && owner[n-1] == name:
			slots[len(slots)-1].Last = traffic.Weight(n)
		default:
			slots = append(slots, traffic.Slot{First: traffic.Weight(n), Last: traffic.Weight(n), Candidate: name})
		}
	}
	return slots
}

// chopped is a layout of many runs that some candidates share, and the weights that
// it gives them.
func chopped(r *rand.Rand, runs, owners int) (traffic.Slots, []traffic.Backend) {
	var slots traffic.Slots
	all := candidates(make([]traffic.Weight, owners)...)
	for i := range all {
		all[i].Name = fmt.Sprintf("c%d", i)
	}
	width := int(traffic.Whole) / runs
	for i := range runs {
		first := traffic.Weight(i*width + r.IntN(width/2))
		last := first + traffic.Weight(r.IntN(width/2))
		who := r.IntN(owners)
		slots = append(slots, traffic.Slot{First: first, Last: last, Candidate: all[who].Name})
		all[who].Weight += last - first + 1
	}
	return slots, all
}

func TestALayoutOfManyRunsIsReweighedNumberByNumber(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for round := range 40 {
		slots, all := chopped(r, 1+r.IntN(200), 1+r.IntN(8))
		for range 1 + r.IntN(3) { // some change at once
			changed := &all[r.IntN(len(all))]
			sum := traffic.Split{Candidates: all}.CandidateWeight()
			changed.Weight = traffic.Weight(r.IntN(int(traffic.Whole - sum + changed.Weight + 1)))
		}
		if r.IntN(4) == 0 {
			all = all[1:]
		}
		if r.IntN(4) == 0 {
			r.Shuffle(len(slots), func(i, j int) { slots[i], slots[j] = slots[j], slots[i] })
		}
		want, before := reweighed(slots, all), slices.Clone(slots)
		if diff := cmp.Diff(want, slots.Reweighed(all)); diff != "" {
			t.Fatalf("round %d (-want +got):\n%s", round, diff)
		}
		if !slices.Equal(slots, before) {
			t.Fatalf("round %d: the layout before has changed", round)
		}
	}
}

// A relay lays out at every change, also of what has the weights already: a copy of a
// hundred thousand runs would be most of what that takes.
func TestALayoutThatHasItsWeightsIsNotCopied(t *testing.T) {
	slots, all := chopped(rand.New(rand.NewPCG(7, 7)), 1000, 8)
	slots = slots.Reweighed(all) // joined
	if got := slots.Reweighed(all); &got[0] != &slots[0] || len(got) != len(slots) {
		t.Error("it is another one")
	}
}

// It is done at every change of a weight, by who waits for it.
func BenchmarkReweighedOfTenThousandRuns(b *testing.B) {
	slots, all := chopped(rand.New(rand.NewPCG(6, 6)), 10_000, 64)
	all[0].Weight, all[1].Weight = all[0].Weight/2, all[1].Weight+all[0].Weight/4
	for b.Loop() {
		slots.Reweighed(all)
	}
}
