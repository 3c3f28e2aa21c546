package tally_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/splitd/splitd/shadow/tally"
)

func TestIntervalsAreThoseOfThePapers(t *testing.T) {
	t.Parallel()
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.00006 {
			t.Errorf("%s is %.4f, want %.4f", name, got, want)
		}
	}
	// Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.0524 to 0.3339.
	near("56/70 less 48/80", tally.LowerBound(tally.Counts{Differed: 56, Exchanges: 70, ControlDiffered: 48, Controls: 80}), 0.0524)
	// The same, table I, method 3: 81/263 is 0.2553 to 0.3662.
	lower, upper := tally.Wilson(81, 263)
	near("lower of 81/263", lower, 0.2553)
	near("upper of 81/263", upper, 0.3662)
	lower, upper = tally.Wilson(0, 20)
	near("lower of 0/20", lower, 0)
	near("upper of 0/20", upper, 0.1611)
	// The example of the report's form.
	near("4 of 930", tally.LowerBound(tally.Counts{Differed: 4, Exchanges: 930, Controls: 200}), 0.0017)
}

func TestWhatDiffersByItselfIsToldFromWhatDiffers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		counts tally.Counts
		want   tally.Finding
		why    string
	}{
		{"always, and never by itself", tally.Counts{Differed: 940, Exchanges: 940, Controls: 200}, tally.Reported, ""},
		{"rarely, and never by itself", tally.Counts{Differed: 4, Exchanges: 940, Controls: 200}, tally.Reported, ""},
		{"without A/A", tally.Counts{Differed: 4, Exchanges: 940}, tally.Reported, ""},
		{"twice of twice", tally.Counts{Differed: 2, Exchanges: 2, Controls: 2}, tally.Suspect, "differs in 2 of 2, 3 would be reported"},
		{"very rarely", tally.Counts{Differed: 4, Exchanges: 9000}, tally.Suspect, "differs in 4 of 9000: it may be as rare as 0.0173 %"},
		{"as often by itself", tally.Counts{Differed: 930, Exchanges: 940, ControlDiffered: 196, Controls: 200}, tally.Masked, "learnt: differs from itself in 98 % of 200"},
		{"always, and by itself nearly so", tally.Counts{Differed: 235, Exchanges: 235, ControlDiffered: 199, Controls: 200}, tally.Masked, "learnt: differs from itself in 99.5 % of 200"},
		{"in two thirds by itself, and always", tally.Counts{Differed: 940, Exchanges: 940, ControlDiffered: 134, Controls: 200}, tally.Reported, ""},
		{"now and then by itself, and more often", tally.Counts{Differed: 300, Exchanges: 940, ControlDiffered: 4, Controls: 200}, tally.Reported, ""},
		{"perhaps more often", tally.Counts{Differed: 28, Exchanges: 940, ControlDiffered: 1, Controls: 200}, tally.Suspect, "from itself in 1 of 200: more of both would tell"},
		{"a rule says so", tally.Counts{Differed: 940, Exchanges: 940, Excuse: "ignore a"}, tally.Masked, `ignored: rule "ignore a"`},
		{"only by itself", tally.Counts{Exchanges: 940, ControlDiffered: 3, Controls: 200}, tally.Masked, "learnt: differs from itself in 1.5 % of 200"},
	}
	for _, test := range tests {
		got := tally.DefaultThresholds().Judge(test.counts)
		if got.Finding != test.want || !strings.HasSuffix(got.Why, test.why) || (got.Why == "") != (test.why == "") {
			t.Errorf("%s: %s (%s), want %s (%s)", test.name, got.Finding, got.Why, test.want, test.why)
		}
	}
}

// What differs by itself as often as from the candidate is not to be reported more
// often than a bound of 95 % allows, and what differs more often is found.
func TestNoiseIsRarelyReportedAndDifferencesAreFound(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 5))
	draw := func(n int64, p float64) (k int64) {
		for range n {
			if random.Float64() < p {
				k++
			}
		}
		return k
	}
	for _, p := range []float64{0.05, 0.3, 0.66, 0.98} {
		wrong, found := 0, 0
		const rounds = 400
		for range rounds {
			noise := draw(200, p)
			same := tally.Counts{Differed: draw(2000, p), Exchanges: 2000, ControlDiffered: noise, Controls: 200}
			if tally.DefaultThresholds().Judge(same).Finding == tally.Reported {
				wrong++
			}
			worse := same
			worse.Differed = draw(2000, p+(1-p)*0.6)
			if p < 0.9 && tally.DefaultThresholds().Judge(worse).Finding == tally.Reported {
				found++
			}
		}
		if wrong > rounds*5/100 {
			t.Errorf("noise of %.0f %%: %d of %d reported", p*100, wrong, rounds)
		}
		if p < 0.9 && found < rounds*99/100 {
			t.Errorf("on noise of %.0f %%: %d of %d differences found", p*100, found, rounds)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add(int64(4), int64(940), int64(0), int64(200))
	f.Add(int64(-1), int64(0), int64(5), int64(1))
	f.Fuzz(func(t *testing.T, a, b, c, d int64) {
		j := tally.DefaultThresholds().Judge(tally.Counts{Differed: a & math.MaxInt64, Exchanges: b, ControlDiffered: c & math.MaxInt64, Controls: d})
		if math.IsNaN(j.Lower) || math.IsNaN(j.Rate) || j.Lower > 1 || (j.Finding == tally.Reported) != (j.Why == "") {
			t.Errorf("%d/%d %d/%d: %+v", a, b, c, d, j)
		}
	})
}
