package ladder

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Verdict is whether clients could tell.
type Verdict string

// The verdicts.
const (
	Holds      Verdict = "holds"
	Fails      Verdict = "does not hold"
	CannotTell Verdict = "cannot tell"
)

// Quantile is the least of the values that at least this share of them does not
// exceed (nearest rank); 0 without values. It does not change them.
func Quantile(values []time.Duration, share float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Times are what clients waited.
type Times struct {
	P50 time.Duration
	P99 time.Duration
}

// TimesOf are those of a slice.
func TimesOf(o Outcome) Times { return Times{P50: Quantile(o.Took, 0.5), P99: Quantile(o.Took, 0.99)} }

// Middle are the medians of the slices' times: a hiccup of the machine is in one of
// them.
func Middle(slices []Times) Times {
	return Times{P50: rank(slices, p50, 0.5), P99: rank(slices, p99, 0.5)}
}

func p50(t Times) time.Duration { return t.P50 }
func p99(t Times) time.Duration { return t.P99 }

func rank(slices []Times, of func(Times) time.Duration, share float64) time.Duration {
	var all []time.Duration
	for _, t := range slices {
		all = append(all, of(t))
	}
	return Quantile(all, share)
}

// Near says whether what took off without the shadow and on with it is the same to a
// client: within a tenth, or a millisecond.
func Near(off, on time.Duration) bool { return on <= off+tolerance(off) }

func tolerance(off time.Duration) time.Duration { return max(off/10, time.Millisecond) }

// compare judges one quantile of the slices. Where those without the shadow differ
// among themselves by more than a client could tell, on a busy machine, they bear
// only what no such difference can be the reason of: that a middle slice with the
// shadow is as fast as a fast one without, or that the fastest with it is slower than
// the slowest without. Of seven slices without a shadow and seven with one that costs
// nothing, the latter happens by chance in 3 of 10,000. Where all but few are alike,
// those few may still be the reason.
func compare(off, on []Times, of func(Times) time.Duration) Verdict {
	fast, slow := rank(off, of, 0.25), rank(off, of, 0.75)
	middle, with := rank(off, of, 0.5), rank(on, of, 0.5)
	steady := slow-fast <= tolerance(middle)
	switch {
	case steady && Near(middle, with), Near(fast, with):
		return Holds
	case steady && !covers(off, on, of), !Near(rank(off, of, 1), rank(on, of, 0)):
		return Fails
	}
	return CannotTell
}

// covers says that a slice without the shadow was as slow as a middle one with it,
// and that this may be chance: a slice with it was as fast as most without. Of seven
// and seven alike, all with it are slower than six without in 2 of 1000.
func covers(off, on []Times, of func(Times) time.Duration) bool {
	return rank(on, of, 0.5) <= rank(off, of, 1) && rank(on, of, 0) <= rank(off, of, 0.75)
}

// Memory is what the subject had resident, in bytes.
type Memory struct {
	// Before is without a shadow, after clients have been served.
	Before int64
	// Peaks are the most in each slice with it, in their order.
	Peaks []int64
}

// Peak is the most of all.
func (m Memory) Peak() int64 {
	if len(m.Peaks) == 0 {
		return m.Before
	}
	return slices.Max(m.Peaks)
}

// What memory may be besides the budget: the program's own, and what a slice may
// have more than those before it.
const (
	memoryOwn  = 32 << 20
	memoryStep = 16 << 20
)

// Bound is the most that it may be. The budget counts what shadows hold; Go's
// collector lets as much again be there before it collects.
func (m Memory) Bound(budget int64) int64 { return m.Before + 2*budget + memoryOwn }

// Flat says whether it stays within its bound, and whether the second half of the
// slices had no more than the first half, but for a step: what leaks goes on.
func (m Memory) Flat(budget int64) bool {
	if m.Peak() > m.Bound(budget) {
		return false
	}
	half := (len(m.Peaks) + 1) / 2
	if half == len(m.Peaks) {
		return true
	}
	early, late := slices.Max(m.Peaks[:half]), slices.Max(m.Peaks[half:])
	return late <= early+early/4+memoryStep
}

// Rung is what was measured with one candidate.
type Rung struct {
	Behaviour Behaviour
	// Pace is that of the page that clients asked for.
	Pace
	// Off and On are what clients waited in each slice, without and with the shadow.
	Off, On []Times
	// Requests were answered, Failed were not, and of those Strays had other bytes than
	// the primary's; Why is the first.
	Requests, Failed, Strays int
	Why                      error
	// Shadowed are the exchanges that the shadow has told of, Taken the connections that
	// the candidate has taken.
	Shadowed int64
	Taken    int
	Memory   Memory
	Budget   int64
}

// Judge says whether no client could tell, and what does not hold or is not known, in
// words.
func (r Rung) Judge() (v Verdict, broken, unclear []string) {
	broken, unclear = r.slower()
	if r.Failed > 0 {
		broken = append(broken, fmt.Sprintf("%d requests failed: %v", r.Failed, r.Why))
	}
	if !r.Memory.Flat(r.Budget) {
		broken = append(broken, fmt.Sprintf("memory grew: %s before, then %s", mebibytes(r.Memory.Before), peaks(r.Memory.Peaks)))
	}
	if r.Requests == 0 {
		broken = append(broken, "no request was answered")
	}
	switch {
	case r.Shadowed == 0:
		broken = append(broken, "nothing was shadowed: the report has no exchange")
	case r.Behaviour.connects() && r.Taken == 0:
		broken = append(broken, "nothing was shadowed: the candidate has seen no connection")
	}
	switch {
	case len(broken) > 0:
		return Fails, broken, unclear
	case len(unclear) > 0:
		return CannotTell, nil, unclear
	}
	return Holds, nil, nil
}

// slower says which times are longer with the shadow, and of which it is not known.
func (r Rung) slower() (broken, unclear []string) {
	for _, q := range []struct {
		name string
		of   func(Times) time.Duration
	}{{"p50", p50}, {"p99", p99}} {
		verdict := compare(r.Off, r.On, q.of)
		if verdict == Holds {
			continue
		}
		text := fmt.Sprintf("%s is %s with the shadow and %s without (%s to %s from slice to slice)", q.name, milliseconds(rank(r.On, q.of, 0.5)),
			milliseconds(rank(r.Off, q.of, 0.5)), milliseconds(rank(r.Off, q.of, 0)), milliseconds(rank(r.Off, q.of, 1)))
		if verdict == Fails {
			broken = append(broken, text)
		} else {
			unclear = append(unclear, text+": those without differ too much among themselves")
		}
	}
	return broken, unclear
}

// Verdict is that of [Rung.Judge].
func (r Rung) Verdict() Verdict {
	v, _, _ := r.Judge()
	return v
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func peaks(all []int64) string {
	var words []string
	for _, n := range all {
		words = append(words, mebibytes(n))
	}
	return strings.Join(words, ", ")
}
