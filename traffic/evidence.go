package traffic

import (
	"cmp"
	"slices"
	"time"
)

// Evidence is what is known of the flows that one generation of a split gave
// to one backend. docs/evidence.md says what it cannot see.
type Evidence struct {
	Split   string
	Backend string
	// Generation gave the flows their backend. 0 are flows of which that is not
	// known: from before the rules, or of too old a generation.
	Generation Generation
	// Since and Until are the window in which the flows were seen, whenever
	// they began.
	Since, Until time.Time
	// Flows is how many were seen: those of Active and those of Ended.
	Flows uint64
	// Active are open now; HalfOpen of them have had no answer yet.
	Active, HalfOpen uint64
	// Ended are over. Of them nothing but a reset answered Refused, nothing at
	// all Unanswered, and Resets ended by a reset, of whichever side, after
	// they had been answered.
	Ended, Refused, Unanswered, Resets uint64
	// BytesIn went from clients to the backend, BytesOut back; nil where nobody
	// counts.
	BytesIn, BytesOut *uint64
	// Lifetimes are of ended flows whose beginning was seen.
	Lifetimes Lifetimes
	// Overdue are those of HalfOpen and of Unanswered that waited for an answer
	// for AnswerDue at least. The others may be on their way.
	Overdue uint64
	// Lost is how often since Since the plane was told that it missed news.
	// What it missed is found at the next look, without its details.
	Lost uint64
}

// AnswerDue is how long an attempt waits for an answer before its silence says
// anything. A client has repeated its SYN twice by then (after 1 s and 3 s, RFC
// 6298), a resolver its query once.
const AnswerDue = 5 * time.Second

// Failed is how many attempts to reach the backend failed.
func (e Evidence) Failed() uint64 { return e.Refused + e.Unanswered }

// SortEvidence orders by split, backend and generation, the youngest first.
func SortEvidence(all []Evidence) {
	slices.SortFunc(all, func(a, b Evidence) int {
		return cmp.Or(cmp.Compare(a.Split, b.Split), cmp.Compare(a.Backend, b.Backend), cmp.Compare(b.Generation, a.Generation))
	})
}

// LifetimesMost is how many bounds of Lifetimes there are.
const LifetimesMost = 8

// LifetimeBounds are the upper bounds of the counts of Lifetimes; the last
// count has none.
func LifetimeBounds() [LifetimesMost]time.Duration {
	return [...]time.Duration{
		time.Second, 5 * time.Second, 15 * time.Second, time.Minute,
		5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 12 * time.Hour,
	}
}

// Lifetimes counts durations by how long they are.
type Lifetimes [LifetimesMost + 1]uint64

// Add counts one.
func (l *Lifetimes) Add(d time.Duration) {
	bounds := LifetimeBounds()
	i, _ := slices.BinarySearch(bounds[:], d)
	l[i]++
}

// Merge adds the counts of another.
func (l *Lifetimes) Merge(other Lifetimes) {
	for i, n := range other {
		l[i] += n
	}
}

// Total is how many were counted.
func (l Lifetimes) Total() uint64 {
	var sum uint64
	for _, n := range l {
		sum += n
	}
	return sum
}

// Quantile is a bound that at least the share q (0 to 1) of the durations do
// not exceed; false when there are none, or when only "longer than the last
// bound" is known.
func (l Lifetimes) Quantile(q float64) (time.Duration, bool) {
	total := l.Total()
	if total == 0 {
		return 0, false
	}
	var sum uint64
	for i, bound := range LifetimeBounds() {
		if sum += l[i]; float64(sum) >= q*float64(total) {
			return bound, true
		}
	}
	return 0, false
}
