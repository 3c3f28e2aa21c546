package netfilter

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// sight is what splitd reads of a ruleset that is in the kernel.
func (r Ruleset) sight() sight {
	all := sight{}
	for _, t := range r.tables {
		model := newRuled()
		for _, c := range t.chains {
			model.chains[c.name] = c
		}
		for _, e := range t.elements {
			model.places[e.place] = e.chain
		}
		for _, name := range t.counters {
			model.counters[name] = 0
		}
		o := model.sight()[TableSplits]
		o.table = t.name
		all[t.name] = o
	}
	return all
}

// without is the sight after somebody has removed a chain, read anew: other
// tables are the same maps.
func (s sight) without(table, chain string) sight {
	next := maps.Clone(s)
	o := next[table]
	o.chains = maps.Clone(o.chains)
	delete(o.chains, chain)
	next[table] = o
	return next
}

func TestWhatIsTheSameIsNotComparedAgain(t *testing.T) {
	splits := manySplits(tableMost+1, 50_000)
	have := Build(splits, labSettings).sight()
	var c comparison
	lines := func(have sight, splits []traffic.Split) []string {
		return c.lines(have, splits, labSettings, About{})
	}
	if got := lines(have, splits); len(have) != 2 || len(got) > 0 {
		t.Fatalf("%d tables; differences %q", len(have), got)
	}
	second := have[tableName(1)]
	gone := slices.Collect(maps.Keys(second.chains))[0]
	kept := second.chains[gone]
	delete(second.chains, gone) // which nobody may do: so it is not seen while nobody looks
	if got := lines(have, splits); len(got) > 0 {
		t.Errorf("the same was compared again: %q", got)
	}
	first := have.without(TableSplits, chainDispatch)
	if got := lines(first, splits); len(got) != 1 {
		t.Errorf("with the first table changed: %q, want its chain alone", got)
	}
	second.chains[gone] = kept
	if got := lines(first.without(tableName(1), gone), splits); len(got) < 2 {
		t.Errorf("with the second table changed, too: %q", got)
	}
}

func TestComparedByPartsOrWholeTheDifferencesAreTheSame(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	splits := manySplits(tableMost+200, 50_000)
	have := Build(splits, labSettings).sight()
	var c comparison
	found := 0
	for step := range 20 {
		splits = slices.Clone(splits)
		i := random.IntN(len(splits))
		s := &splits[i]
		switch random.IntN(7) {
		case 0:
			s.Generation++
		case 1:
			s.Candidates = slices.Clone(s.Candidates)
			s.Candidates[0].Weight = traffic.Weight(random.IntN(1_000_000))
		case 2: // which the first table has a chain for
			s.Return = traffic.ReturnMasquerade
		case 3:
			s.SamplePort, s.Sample = 15_000, 100
		case 4:
			splits = slices.Delete(splits, i, i+1)
		case 5:
			o := have[have.names()[random.IntN(len(have))]]
			have = have.without(o.table, o.chainNames()[random.IntN(len(o.chains))])
		case 6:
			have = Build(splits, labSettings).sight()
		}
		got := slices.Sorted(slices.Values(c.lines(have, splits, labSettings, About{})))
		want := slices.Sorted(slices.Values(differences(have, wanted(have, splits, labSettings, About{}, nil), splits)))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("step %d (-whole +by parts):\n%s", step, diff)
		}
		found += len(got)
	}
	if found == 0 {
		t.Error("there never was a difference")
	}
}

func TestWithoutSplitsAndTablesThereIsNoDifference(t *testing.T) {
	var c comparison
	if got := c.lines(sight{}, nil, labSettings, About{}); len(got) > 0 {
		t.Errorf("differences %q", got)
	}
	if got := c.lines(sight{}, []traffic.Split{remoteSplit(1, 0)}, labSettings, About{}); len(got) == 0 {
		t.Error("that the table is missing is not told")
	}
	if got := c.lines(Build([]traffic.Split{remoteSplit(1, 0)}, labSettings).sight(), nil, labSettings, About{}); len(got) == 0 {
		t.Error("that a split is not wanted is not told")
	}
}
