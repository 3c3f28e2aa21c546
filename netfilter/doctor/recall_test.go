package doctor

import "testing"

func TestOtherProgramsRulesAreReadAgainOnlyWhenTheyMayHaveChanged(t *testing.T) {
	number, certain, reads := uint32(7), true, 0
	others := func() (uint32, bool) { return number, certain }
	read := func() (foreignRules, error) {
		reads++
		return foreignRules{nat: reads%2 == 0}, nil
	}
	r := &Recall{}
	for _, step := range []struct {
		about   string
		number  uint32
		certain bool
		reads   int
	}{
		{"the first time", 7, true, 1},
		{"nobody wrote", 7, true, 1},
		{"somebody wrote", 8, true, 2},
		{"nobody wrote since", 8, true, 2},
		{"who knows", 8, false, 3},
		{"not to be relied on", 8, true, 4},
		{"at last", 8, true, 4},
	} {
		number, certain = step.number, step.certain
		got, err := r.foreign(others, read)
		if err != nil || reads != step.reads || got.nat != (step.reads%2 == 0) {
			t.Errorf("%s: %d reads so far, nat %v, error %v; want %d reads", step.about, reads, got.nat, err, step.reads)
		}
	}
}

func TestWhatChangesWhileItIsReadIsReadAgain(t *testing.T) {
	number, reads := uint32(0), 0
	others := func() (uint32, bool) { return number, true }
	r := &Recall{}
	for range 2 {
		_, _ = r.foreign(others, func() (foreignRules, error) {
			reads++
			number++
			return foreignRules{}, nil
		})
	}
	if reads != 2 {
		t.Errorf("%d reads, want 2", reads)
	}
}
