package ladder

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAQuantileIsOneOfTheValues(t *testing.T) {
	hundred := make([]time.Duration, 0, 100)
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)) // 100 to 1
	}
	for _, tc := range []struct {
		name   string
		values []time.Duration
		share  float64
		want   time.Duration
	}{
		{"nothing", nil, 0.99, 0},
		{"one value is all of them", []time.Duration{7}, 0.5, 7},
		{"the middle", []time.Duration{3, 1, 2}, 0.5, 2},
		{"the lower middle of an even number", []time.Duration{4, 3, 1, 2}, 0.5, 2},
		{"99 of 100", hundred, 0.99, 99},
		{"all of them", hundred, 1, 100},
		{"none of them", hundred, 0, 1},
	} {
		if got := Quantile(tc.values, tc.share); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("the values were sorted")
	}
}

func TestAClientCannotTellATenthOrAMillisecond(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	for _, tc := range []struct {
		name    string
		off, on time.Duration
		want    bool
	}{
		{"the same", 200 * us, 200 * us, true},
		{"less", 200 * us, 100 * us, true},
		{"a millisecond more of little", 200 * us, 1200 * us, true},
		{"more than a millisecond of little", 200 * us, 1201 * us, false},
		{"a tenth of much", 100 * ms, 110 * ms, true},
		{"more than a tenth of much", 100 * ms, 111 * ms, false},
	} {
		off, on := slices.Repeat([]time.Duration{tc.off}, 7), slices.Repeat([]time.Duration{tc.on}, 7)
		if got := Compare(off, on) == Holds; got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestMemoryIsFlatWithinItsBoundAndWithoutALeak(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name   string
		memory Memory
		want   bool
	}{
		{"nothing was shadowed", Memory{Before: 20 * mib}, true},
		{"one slice", Memory{20 * mib, []int64{60 * mib}}, true},
		{"the budget is used", Memory{20 * mib, []int64{80 * mib, 90 * mib, 85 * mib}}, true},
		{"over the bound once", Memory{20 * mib, []int64{40 * mib, 181 * mib, 40 * mib}}, false},
		{"it goes on growing", Memory{20 * mib, []int64{30 * mib, 50 * mib, 70 * mib, 90 * mib}}, false},
		{"a step late", Memory{20 * mib, []int64{30 * mib, 30 * mib, 30 * mib, 45 * mib}}, true},
	} {
		if got := tc.memory.Flat(64 * mib); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestARungHoldsUnlessAClientCouldTell(t *testing.T) {
	const ms = time.Millisecond
	good := Rung{
		Behaviour: Healthy, Requests: 1000, Taken: 10, Shadowed: 900, Budget: 64 << 20,
		Off: slices.Repeat([]Times{{ms, 5 * ms}}, 7), On: slices.Repeat([]Times{{ms, 5 * ms}, {ms, 2 * ms}, {ms, 5 * ms}}, 3)[:7], Memory: Memory{Before: 20 << 20, Peaks: []int64{30 << 20}},
	}
	with := func(change func(*Rung)) Rung {
		r := good
		change(&r)
		return r
	}
	for _, tc := range []struct {
		name string
		rung Rung
		want []string
	}{
		{"as good as without", good, nil},
		{
			"slower", with(func(r *Rung) { r.On = slices.Repeat([]Times{{3 * ms, 20 * ms}}, 7) }),
			[]string{
				"p50 is 1.00 ms without the shadow, and with it 2.00 ms longer (certainly 2.00 ms to 2.00 ms), 1.00 ms may be",
				"p99 is 5.00 ms without the shadow, and with it 15.00 ms longer (certainly 15.00 ms to 15.00 ms), 1.00 ms may be",
			},
		},
		{
			"failures", with(func(r *Rung) { r.Failed, r.Why = 2, errors.New("cut off") }),
			[]string{"2 requests failed: cut off"},
		},
		{
			"memory", with(func(r *Rung) { r.Memory.Peaks = []int64{200 << 20} }),
			[]string{"memory grew: 20.0 MiB before, then 200.0 MiB"},
		},
		{
			"a shadow that was none", with(func(r *Rung) { r.Taken = 0 }),
			[]string{"nothing was shadowed: the candidate has seen no connection"},
		},
		{
			"a shadow of which nothing is told", with(func(r *Rung) { r.Shadowed = 0 }),
			[]string{"nothing was shadowed: the report has no exchange"},
		},
		{"who takes no connection has seen none", with(func(r *Rung) { r.Taken, r.Behaviour = 0, Blackholed }), nil},
		{"nobody asked", with(func(r *Rung) { r.Requests = 0 }), []string{"no request was answered"}},
	} {
		verdict, broken, unclear := tc.rung.Judge()
		if diff := cmp.Diff(tc.want, broken); diff != "" || unclear != nil || (verdict == Holds) != (tc.want == nil) || verdict == CannotTell {
			t.Errorf("%s: %s, unclear is %q, and (-want +got):\n%s", tc.name, verdict, unclear, diff)
		}
	}
	bad := with(func(r *Rung) { r.Failed = 1 })
	untold := with(func(r *Rung) { r.Shadowed, r.Untold = 0, errors.New("no processor") })
	if verdict, broken, unclear := untold.Judge(); verdict != CannotTell || broken != nil || len(unclear) != 1 || unclear[0] != "what was shadowed is not known: no processor" {
		t.Errorf("of a shadow that does not answer: %s, %q, %q", verdict, broken, unclear)
	}
	unknown := with(func(r *Rung) {
		r.Off, r.On = []Times{{ms, ms}, {9 * ms, 9 * ms}, {90 * ms, 90 * ms}}, []Times{{10 * ms, 10 * ms}, {9 * ms, 9 * ms}, {90 * ms, 90 * ms}}
	})
	for _, tc := range []struct {
		name       string
		rungs      []Rung
		want       Verdict
		comparable bool
	}{
		{"nothing was measured", nil, Fails, true},
		{"all hold", []Rung{good, good}, Holds, true},
		{"of one nobody can tell", []Rung{good, unknown, good}, CannotTell, true},
		{"one does not hold", []Rung{good, unknown, with(func(r *Rung) { r.Behaviour, r.Failed = Hanging, 1 })}, Fails, true},
		{"the healthy one does not", []Rung{bad, good}, Fails, false},
		{"of the healthy one nobody can tell", []Rung{unknown}, CannotTell, true},
	} {
		l := Ladder{Rungs: tc.rungs}
		if l.Verdict() != tc.want || l.Comparable() != tc.comparable {
			t.Errorf("%s: %s, comparable %v; want %s, %v", tc.name, l.Verdict(), l.Comparable(), tc.want, tc.comparable)
		}
	}
}

func TestOnlyWhatIsCertainIsSaid(t *testing.T) {
	ms := func(all ...int) (times []time.Duration) {
		for _, n := range all {
			times = append(times, time.Duration(n)*time.Millisecond)
		}
		return times
	}
	steady := ms(20, 21, 20, 20, 19, 20, 20)
	long := slices.Repeat(steady, 2)
	busy := ms(5, 60, 20, 30, 6, 40, 90)
	for _, tc := range []struct {
		name    string
		off, on []time.Duration
		want    Verdict
	}{
		{"steady, and the same", steady, ms(20, 20, 21, 19, 20, 21, 20), Holds},
		{"steady, and nearer than a client can tell", steady, ms(21, 22, 21, 21, 20, 21, 21), Holds},
		{"steady, and slower", steady, ms(24, 25, 23, 25, 23, 24, 24), Fails},
		{"one slow slice of many is a hiccup", long, append(slices.Repeat(steady, 2)[:13], 200*time.Millisecond), Holds},
		{"so is one without the shadow", append(slices.Repeat(steady, 2)[:13], 200*time.Millisecond), slices.Repeat(ms(24, 25, 23, 25, 23, 24, 24), 2), Fails},
		{"of few it may be the shadow", steady, ms(20, 20, 200, 20, 19, 20, 20), CannotTell},
		{"busy, and each as slow as the one beside it", busy, ms(5, 61, 20, 31, 7, 40, 89), Holds},
		{"busy, and each slower than the one beside it", busy, ms(15, 69, 33, 41, 17, 52, 98), Fails},
		{"busy, and each otherwise", busy, ms(30, 5, 90, 6, 40, 20, 60), CannotTell},
		{"too few to be certain of a little", ms(20, 20, 20), ms(20, 20, 30), CannotTell},
		{"none", nil, nil, Holds},
	} {
		if got := Compare(tc.off, tc.on); got != tc.want {
			t.Errorf("%s: %s of %v, want %s", tc.name, got, ShiftOf(tc.off, tc.on), tc.want)
		}
	}
	r := Rung{Behaviour: Dead, Off: []Times{{P50: 5e6}, {P50: 90e6}, {P50: 20e6}}, On: []Times{{P50: 30e6}, {P50: 5e6}, {P50: 25e6}}, Requests: 1, Shadowed: 1, Budget: 1}
	verdict, broken, unclear := r.Judge()
	want := []string{"p50 is 20.00 ms without the shadow, and with it -30.00 ms longer (certainly -85.00 ms to 25.00 ms), 2.00 ms may be"}
	if diff := cmp.Diff(want, unclear); verdict != CannotTell || broken != nil || diff != "" {
		t.Errorf("%s, broken is %q, and (-want +got):\n%s", verdict, broken, diff)
	}
}

// The bounds keep their word: of pairs whose middle is known, however they scatter, one
// of twenty lies beyond each.
func TestTheBoundsOfAShiftHoldNineteenOfTwenty(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	for _, pairs := range []int{5, 7, 12, 30} {
		const rounds, truth = 4000, 3 * time.Millisecond
		low, high := 0, 0
		for range rounds {
			var off, on []time.Duration
			for range pairs {
				busy := time.Duration(random.ExpFloat64() * float64(50*time.Millisecond)) // of both
				off = append(off, busy)
				on = append(on, busy+truth+time.Duration(random.NormFloat64()*float64(2*time.Millisecond)))
			}
			switch s := ShiftOf(off, on); {
			case s.Least > truth:
				low++
			case s.Most < truth:
				high++
			}
		}
		if low > rounds*6/100 || high > rounds*6/100 {
			t.Errorf("of %d shifts by %d pairs %d are less than certain and %d more", rounds, pairs, low, high)
		}
		if pairs >= 7 && (low < rounds*2/100 || high < rounds*2/100) {
			t.Errorf("of %d shifts by %d pairs only %d and %d are beyond the bounds: they are too wide", rounds, pairs, low, high)
		}
	}
}

func TestTheRanksAreThoseOfWilcoxonsTable(t *testing.T) {
	// Critical values of the signed rank test, one-sided, 5 %.
	for n, want := range map[int]int{5: 0, 6: 2, 7: 3, 8: 5, 9: 8, 10: 10, 12: 17, 15: 30, 20: 60, 25: 100} {
		if got := rarest(n); got != want {
			t.Errorf("of %d pairs: %d, want %d", n, got, want)
		}
	}
}

func TestAHiccupInOneSliceIsNotTheLadders(t *testing.T) {
	var all []Times
	for _, worst := range []time.Duration{2, 900, 2} {
		all = append(all, TimesOf(Outcome{Took: []time.Duration{1, 1, worst}}))
	}
	if diff := cmp.Diff(Times{1, 2}, Middle(all)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestResidentMemoryIsReadOfProc(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       int64
		fails      bool
	}{
		{"as Linux writes it", "Name:\tsplitd\nVmRSS:\t   10240 kB\nThreads:\t3\n", 10 << 20, false},
		{"a process without memory", "Name:\tkthreadd\n", 0, true},
		{"no number", "VmRSS:\tmany kB\n", 0, true},
	} {
		if got, err := residentIn(tc.text); got != tc.want || (err != nil) != tc.fails {
			t.Errorf("%s: %d, %v", tc.name, got, err)
		}
	}
}
