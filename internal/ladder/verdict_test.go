package ladder

import (
	"errors"
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
		if got := Near(tc.off, tc.on); got != tc.want {
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
		Off: []Times{{ms, 5 * ms}, {2 * ms, 9 * ms}, {ms, 4 * ms}, {ms, 5 * ms}, {ms, 5 * ms}}, On: []Times{{ms, 6 * ms}, {ms, 2 * ms}, {ms, 60 * ms}}, Memory: Memory{Before: 20 << 20, Peaks: []int64{30 << 20}},
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
			"slower", with(func(r *Rung) { r.On = []Times{{3 * ms, 20 * ms}} }),
			[]string{
				"p50 is 3.00 ms with the shadow and 1.00 ms without (1.00 ms to 2.00 ms from slice to slice)",
				"p99 is 20.00 ms with the shadow and 5.00 ms without (4.00 ms to 9.00 ms from slice to slice)",
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
	unknown := with(func(r *Rung) {
		r.Off, r.On = []Times{{ms, ms}, {9 * ms, 9 * ms}, {90 * ms, 90 * ms}}, []Times{{10 * ms, 10 * ms}}
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

func TestSlicesThatDifferTooMuchBearOnlyWhatIsCertain(t *testing.T) {
	ms := func(all ...int) (times []Times) {
		for _, n := range all {
			times = append(times, Times{P50: time.Duration(n) * time.Millisecond, P99: time.Millisecond})
		}
		return times
	}
	steady := ms(20, 21, 20, 20, 19, 20, 90)
	busy := ms(5, 6, 20, 30, 40, 60, 90)
	for _, tc := range []struct {
		name    string
		off, on []Times
		want    Verdict
	}{
		{"steady and near", steady, ms(22, 20, 21, 20, 200, 22, 22), Holds},
		{"steady and slower", steady, ms(23, 24, 23, 25, 23, 24, 23), Fails},
		{"one slow slice is a hiccup, and no scatter", steady, ms(20, 20, 20, 20, 20, 20, 20), Holds},
		{"busy, and about the same", busy, ms(6, 5, 40, 30, 31, 60, 90), CannotTell},
		{"busy, and slower, as may be by chance", busy, ms(30, 40, 90, 95, 99, 99, 99), CannotTell},
		{"busy, and slower than ever without but once", busy, ms(80, 100, 110, 120, 130, 120, 110), CannotTell},
		{"busy, and slower than ever without", busy, ms(105, 100, 110, 120, 130, 120, 110), Fails},
		{"busy, and as fast as a fast one without", busy, ms(5, 6, 7, 6, 5, 90, 100), Holds},
		{"steady but for one, which covers what is slower", steady, ms(20, 20, 20, 40, 50, 60, 70), CannotTell},
		{"steady but for one, and as slow as that", steady, ms(20, 20, 20, 90, 90, 90, 90), CannotTell},
		{"steady but for one, and the middle is slower than that", steady, ms(20, 20, 20, 100, 100, 100, 100), Fails},
		{"steady but for one, and all are slower than the others", steady, ms(22, 22, 22, 40, 50, 60, 70), Fails},
	} {
		if got := compare(tc.off, tc.on, p50); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	r := Rung{Behaviour: Dead, Off: busy, On: ms(30, 30, 30), Requests: 1, Shadowed: 1, Budget: 1}
	verdict, broken, unclear := r.Judge()
	want := []string{"p50 is 30.00 ms with the shadow and 30.00 ms without (5.00 ms to 90.00 ms from slice to slice): those without differ too much among themselves"}
	if diff := cmp.Diff(want, unclear); verdict != CannotTell || broken != nil || diff != "" {
		t.Errorf("%s, broken is %q, and (-want +got):\n%s", verdict, broken, diff)
	}
}

func TestAMedianWithinWhatSlicesWithoutAShadowTakeDecidesNothing(t *testing.T) {
	of := func(all ...float64) (times []Times) {
		for _, ms := range all {
			times = append(times, Times{P50: time.Duration(ms * float64(time.Millisecond)), P99: time.Millisecond})
		}
		return times
	}
	r := Rung{
		Behaviour: Blackholed, Requests: 1, Shadowed: 1, Budget: 1,
		Off: of(0.28, 0.19, 0.33, 13.86, 0.29, 0.27, 1.1), On: of(0.31, 2.11, 0.27, 4.7, 0.9, 6.2, 2.3),
	}
	verdict, broken, unclear := r.Judge()
	want := []string{"p50 is 2.11 ms with the shadow and 0.29 ms without (0.19 ms to 13.86 ms from slice to slice): those without differ too much among themselves"}
	if diff := cmp.Diff(want, unclear); verdict != CannotTell || broken != nil || diff != "" {
		t.Errorf("%s, broken is %q, and (-want +got):\n%s", verdict, broken, diff)
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
