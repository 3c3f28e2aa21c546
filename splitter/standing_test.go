package splitter

import (
	"testing"

	"github.com/splitd/splitd/traffic"
)

// A split may have 16,384 listeners: what each of them copies at a change of weights is
// a few words, and flows of before find what they had.
func TestAChangeOfWeightsCopiesNothingThatStands(t *testing.T) {
	s := drawnSplit()
	before := choiceOf(t, s, s.Service.Addresses[0])
	changed, err := s.WithWeights(map[string]traffic.Weight{s.Candidates[0].Name: 7})
	if err != nil {
		t.Fatal(err)
	}
	changed.Generation = 8
	after := before.restated(changed, before.rules.restated(changed))
	if after.standing != before.standing || after.generation != 8 || after.rules == before.rules {
		t.Errorf("the choice is %+v, before it was %+v", after, before)
	}
	alone := after.toPrimary()
	if len(alone.candidates) != 0 || len(before.candidates) != len(s.Candidates) || alone.primary.name != before.primary.name {
		t.Errorf("a front that goes has %d candidates, one of before %d, want 0 and %d", len(alone.candidates), len(before.candidates), len(s.Candidates))
	}
}
