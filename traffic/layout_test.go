package traffic_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

func candidates(weights ...traffic.Weight) []traffic.Backend {
	var all []traffic.Backend
	for i, w := range weights {
		all = append(all, traffic.Backend{Name: string(rune('a' + i)), Weight: w})
	}
	return all
}

func TestTwoCandidatesLieAtTheTwoEndsOfTheDraw(t *testing.T) {
	s := traffic.Split{Affinity: traffic.AffinitySource, Candidates: candidates(50_000, 10_000)}
	want := traffic.Slots{{First: 0, Last: 49_999, Candidate: "a"}, {First: 990_000, Last: 999_999, Candidate: "b"}}
	if diff := cmp.Diff(want, s.Layout()); diff != "" {
		t.Errorf("layout (-want +got):\n%s", diff)
	}
}

// owners is who has each of some numbers, ends of slots among them.
func owners(slots traffic.Slots) map[traffic.Weight]string {
	all := map[traffic.Weight]string{}
	for n := traffic.Weight(0); n < traffic.Whole; n += 9_973 {
		all[n] = slots.Of(n)
	}
	for _, s := range slots {
		all[s.First], all[s.Last] = slots.Of(s.First), slots.Of(s.Last)
	}
	return all
}

func TestAChangedWeightMovesClientsBetweenThatCandidateAndThePrimaryAlone(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7} {
		random := rand.New(rand.NewPCG(1, uint64(n)))
		s := traffic.Split{Affinity: traffic.AffinitySource, Candidates: candidates(make([]traffic.Weight, n)...)}
		for range 500 {
			before, old := s.Layout(), s.CandidateWeight()
			i := random.IntN(n)
			was := s.Candidates[i].Weight
			s.Candidates[i].Weight = traffic.Weight(random.IntN(int(traffic.Whole - old + was + 1)))
			name, raised := s.Candidates[i].Name, s.Candidates[i].Weight > was
			s = s.Relaid(before)
			after := s.Layout()
			if n <= 2 && s.Slotted() {
				t.Fatalf("%d candidates: the layout has become state by a change of weights", n)
			}
			for _, c := range s.Candidates {
				var sum traffic.Weight
				for _, slot := range after {
					if slot.Candidate == c.Name {
						sum += slot.Last - slot.First + 1
					}
				}
				if sum != c.Weight {
					t.Fatalf("%d candidates: %q has %d of the draw, want %d", n, c.Name, sum, c.Weight)
				}
			}
			for _, numbers := range []map[traffic.Weight]string{owners(before), owners(after)} {
				for number := range numbers {
					from, to := before.Of(number), after.Of(number)
					switch {
					case from == to:
					case raised && from == "" && to == name:
					case !raised && from == name && to == "":
					default:
						t.Fatalf("%d candidates: %q went from %d to %d, and number %d from %q to %q", n, name, was, s.Candidates[i].Weight, number, from, to)
					}
				}
			}
		}
	}
}

func TestCandidatesThatGoComeOrChangePlacesMoveNobodyElse(t *testing.T) {
	named := func(pairs ...any) []traffic.Backend {
		var all []traffic.Backend
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, traffic.Backend{Name: pairs[i].(string), Weight: traffic.Weight(pairs[i+1].(int))})
		}
		return all
	}
	for name, tc := range map[string]struct {
		before, after []traffic.Backend
		state         bool
	}{
		"the first goes":            {named("a", 50_000, "b", 10_000), named("b", 10_000), true},
		"the second goes":           {named("a", 50_000, "b", 10_000), named("a", 50_000), false},
		"the first goes, unused":    {named("a", 50_000, "b", 0), named("b", 0), false},
		"one comes before":          {named("a", 50_000), named("b", 0, "a", 50_000), true},
		"one comes behind":          {named("a", 50_000), named("a", 50_000, "b", 0), false},
		"they change places":        {named("a", 50_000, "b", 10_000), named("b", 10_000, "a", 50_000), true},
		"the first of three goes":   {named("a", 50_000, "b", 10_000, "c", 20_000), named("b", 10_000, "c", 20_000), true},
		"the first goes, and back":  {named("b", 10_000), named("a", 0, "b", 10_000), true},
		"one becomes the only one":  {named("a", 50_000, "b", 950_000), named("b", 950_000), true},
		"all of it, and the others": {named("a", 0, "b", 1_000_000), named("b", 1_000_000), false},
	} {
		t.Run(name, func(t *testing.T) {
			was := traffic.Split{Affinity: traffic.AffinitySource, Candidates: tc.before}.Relaid(nil).Layout()
			is := traffic.Split{Affinity: traffic.AffinitySource, Candidates: tc.after}.Relaid(was)
			for number := range owners(was) {
				from, to := was.Of(number), is.Layout().Of(number)
				if _, stays := is.Candidate(from); from != to && (stays || from == "") {
					t.Fatalf("number %d goes from %q to %q", number, from, to)
				}
			}
			if is.Slotted() != tc.state {
				t.Errorf("the layout is state: %v, want %v", is.Slotted(), tc.state)
			}
		})
	}
}

func TestTheEndsAreTheirsAgainWhenThatMovesNobody(t *testing.T) {
	s := traffic.Split{Affinity: traffic.AffinitySource, Candidates: candidates(50_000, 10_000)}
	s.Candidates = s.Candidates[1:]
	s = s.Relaid(traffic.Split{Affinity: traffic.AffinitySource, Candidates: candidates(50_000, 10_000)}.Layout())
	for _, step := range []struct {
		weight traffic.Weight
		state  bool
	}{{20_000, true}, {15_000, true}, {traffic.Whole, false}, {30_000, false}, {0, false}} {
		before := s.Layout()
		s.Candidates[0].Weight = step.weight
		if s = s.Relaid(before); s.Slotted() != step.state {
			t.Errorf("at %s the layout is state: %v, want %v", step.weight, s.Slotted(), step.state)
		}
	}
}

func TestSlotsOfACandidateThatIsGoneAreThePrimarys(t *testing.T) {
	slots := traffic.Slots{{First: 0, Last: 9, Candidate: "a"}, {First: 10, Last: 19, Candidate: "b"}}
	want := traffic.Slots{{First: 10, Last: 19, Candidate: "b"}}
	if diff := cmp.Diff(want, slots.Reweighed([]traffic.Backend{{Name: "b", Weight: 10}})); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
}

func TestEveryRouterDrawsAlikeAndEverySplitOtherwise(t *testing.T) {
	mx, web := traffic.Split{Name: "mx"}, traffic.Split{Name: "web"}
	if mx.Seed() != (traffic.Split{Name: "mx"}).Seed() {
		t.Error("the same name gives two seeds")
	}
	if mx.Seed() == web.Seed() {
		t.Error("two names give one seed")
	}
	if got := (traffic.Split{Name: "web", AffinitySeed: "mx"}).Seed(); got != mx.Seed() {
		t.Errorf("with the seed of another split the seed is %d, want %d", got, mx.Seed())
	}
}
