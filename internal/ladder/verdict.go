package ladder

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
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

// TimesOf are the medians of the slices' quantiles: one hiccup of the machine is in
// one slice.
func TimesOf(slices []Outcome) Times {
	var all50, all99 []time.Duration
	for _, o := range slices {
		all50 = append(all50, Quantile(o.Took, 0.5))
		all99 = append(all99, Quantile(o.Took, 0.99))
	}
	return Times{P50: Quantile(all50, 0.5), P99: Quantile(all99, 0.5)}
}

// Near says whether what took off without the shadow and on with it is the same to a
// client: within a tenth, or a millisecond.
func Near(off, on time.Duration) bool {
	return on <= off+off/10 || on <= off+time.Millisecond
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
	Off, On   Times
	// Requests were answered, Failed were not, and of those Strays had other bytes than
	// the primary's; Why is the first.
	Requests, Failed, Strays int
	Why                      error
	// Taken are the connections that the candidate has taken.
	Taken  int
	Memory Memory
	Budget int64
}

// Verdict is what does not hold, in words; nothing where the rung holds.
func (r Rung) Verdict() []string {
	var broken []string
	for _, q := range []struct {
		name    string
		off, on time.Duration
	}{{"p50", r.Off.P50, r.On.P50}, {"p99", r.Off.P99, r.On.P99}} {
		if !Near(q.off, q.on) {
			broken = append(broken, fmt.Sprintf("%s is %s with the shadow and %s without", q.name, q.on.Round(time.Microsecond), q.off.Round(time.Microsecond)))
		}
	}
	if r.Failed > 0 {
		broken = append(broken, fmt.Sprintf("%d requests failed: %v", r.Failed, r.Why))
	}
	if !r.Memory.Flat(r.Budget) {
		broken = append(broken, fmt.Sprintf("memory grew: %s before, then %s", mebibytes(r.Memory.Before), peaks(r.Memory.Peaks)))
	}
	if r.Requests == 0 {
		broken = append(broken, "no request was answered")
	}
	if r.Behaviour.connects() && r.Taken == 0 {
		broken = append(broken, "nothing was shadowed: the candidate has seen no connection")
	}
	return broken
}

// Holds says whether no client could tell.
func (r Rung) Holds() bool { return len(r.Verdict()) == 0 }

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func peaks(all []int64) string {
	var words []string
	for _, n := range all {
		words = append(words, mebibytes(n))
	}
	return strings.Join(words, ", ")
}
