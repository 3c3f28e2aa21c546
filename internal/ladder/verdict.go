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
	return Quantile(each(slices, of), share)
}

func each(slices []Times, of func(Times) time.Duration) []time.Duration {
	all := make([]time.Duration, 0, len(slices))
	for _, t := range slices {
		all = append(all, of(t))
	}
	return all
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
	// Off and On are what clients waited in each slice, without and with the shadow: those
	// of one place were measured one after the other.
	Off, On []Times
	// Requests were answered, Failed were not, and of those Strays had other bytes than
	// the primary's; Why is the first.
	Requests, Failed, Strays int
	Why                      error
	// Shadowed are the exchanges that the shadow has told of, Taken the connections that
	// the candidate has taken.
	Shadowed int64
	// Untold is why the shadow does not say; nil: it has.
	Untold error
	Taken  int
	// Secure says that all of it is over TLS; StoodIn are then the flows with the shadow in
	// which somebody stood in for the primary.
	Secure  bool
	StoodIn int
	Memory  Memory
	Budget  int64
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
	case r.Untold != nil:
		unclear = append(unclear, fmt.Sprintf("what was shadowed is not known: %v", r.Untold))
	case r.Shadowed == 0:
		broken = append(broken, "nothing was shadowed: the report has no exchange")
	case r.Secure && r.StoodIn == 0:
		broken = append(broken, "nothing was seen into: clients have met the primary's certificate alone")
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
		off, on := each(r.Off, q.of), each(r.On, q.of)
		shift, verdict := ShiftOf(off, on), Compare(off, on)
		text := fmt.Sprintf("%s is %s without the shadow, and with it %s longer (certainly %s to %s), %s may be",
			q.name, milliseconds(Quantile(off, 0.5)), milliseconds(shift.Middle), milliseconds(shift.Least), milliseconds(shift.Most), milliseconds(tolerance(Quantile(off, 0.5))))
		switch verdict {
		case Fails:
			broken = append(broken, text)
		case CannotTell:
			unclear = append(unclear, text)
		case Holds:
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
