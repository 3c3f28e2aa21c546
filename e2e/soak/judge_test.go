package soak

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// waves are readings of a measure that goes up and down by noise around a base
// and grows by so much from the first reading to the last.
func waves(n int, base, noise, growth float64) []Reading {
	r := rand.New(rand.NewPCG(1, 2))
	var all []Reading
	for i := range n {
		wave := noise * (math.Sin(float64(i)/3) + r.Float64() - 0.5)
		all = append(all, Reading{"memory": base + wave + growth*float64(i)/float64(n-1)})
	}
	return all
}

func TestALeakIsToldFromAWave(t *testing.T) {
	rule := []Rule{{Measure: "memory", Share: 0.1, Amount: 5}}
	for name, test := range map[string]struct {
		readings []Reading
		grew     bool
	}{
		"flat":                          {waves(90, 100, 0, 0), false},
		"waves":                         {waves(90, 100, 40, 0), false},
		"waves in few readings":         {waves(30, 100, 20, 0), false},
		"less than is allowed":          {waves(90, 100, 2, 9), false},
		"a leak":                        {waves(90, 100, 5, 40), true},
		"a leak below waves":            {waves(300, 100, 40, 60), true},
		"a small one of a large thing":  {waves(90, 1000, 5, 90), false},
		"beyond the amount, of nothing": {waves(90, 0, 0, 12), true},
		"it shrinks":                    {waves(90, 100, 5, -50), false},
	} {
		t.Run(name, func(t *testing.T) {
			rows, err := Judge(test.readings, rule)
			if err != nil {
				t.Fatal(err)
			}
			if rows[0].Grew() != test.grew {
				t.Errorf("grew: %v, want %v\n%s", rows[0].Grew(), test.grew, Table(rows))
			}
		})
	}
}

// One peak in a plateau is no growth, and does not hide any.
func TestSinglePeaksDecideNothing(t *testing.T) {
	rule := []Rule{{Measure: "memory", Share: 0.1, Amount: 5}}
	for at, grew := range map[int]bool{2: true, 80: true} {
		readings := waves(90, 100, 1, 40)
		readings[at]["memory"] = 10_000
		rows, err := Judge(readings, rule)
		if err != nil || rows[0].Grew() != grew || rows[0].Most != 10_000 {
			t.Errorf("a leak with a peak at %d: %+v, %v", at, rows, err)
		}
		flat := waves(90, 100, 1, 0)
		flat[at]["memory"] = 10_000
		if rows, err = Judge(flat, rule); err != nil || rows[0].Grew() {
			t.Errorf("a plateau with a peak at %d: %+v, %v", at, rows, err)
		}
	}
}

func TestAVerdictNeedsReadingsOfEverything(t *testing.T) {
	if _, err := Judge(waves(29, 1, 0, 0), []Rule{{Measure: "memory"}}); err == nil {
		t.Error("29 readings are judged")
	}
	if _, err := Judge(waves(30, 1, 0, 0), []Rule{{Measure: "pipes"}}); err == nil {
		t.Error("a measure that was not read is judged")
	}
}

func TestWhatIsLeftAfterTheLoadIsNamed(t *testing.T) {
	base := Reading{"sockets": 9, "pipes": 0, "goroutines": 30}
	end := Reading{"sockets": 10, "pipes": 0, "goroutines": 28}
	want := []string{"sockets: 10, before the load 9"}
	if diff := cmp.Diff(want, Left(base, end, "sockets", "pipes", "goroutines")); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
	if got := Left(base, base, "sockets", "pipes"); got != nil {
		t.Errorf("of the base itself %v is left", got)
	}
}
