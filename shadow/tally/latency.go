package tally

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/DataDog/sketches-go/ddsketch"
	"github.com/DataDog/sketches-go/ddsketch/store"

	"github.com/splitd/splitd/shadow"
)

// Latency is how long replies took, in pairs: of each compared exchange both sides,
// and the candidate's less the primary's, which is negative where it was faster.
type Latency struct {
	// WarmUp is how many exchanges were left out at the beginning, Unknown how many
	// had a time missing. Pairs are all others.
	WarmUp    int64  `json:"warm_up"`
	Unknown   int64  `json:"unknown"`
	Pairs     int64  `json:"pairs"`
	Primary   Timing `json:"primary"`
	Candidate Timing `json:"candidate"`
	Delta     Timing `json:"delta"`
}

// Timing is of the first byte and of the whole reply, from when the request was with
// the server.
type Timing struct {
	First Sketch `json:"first"`
	Total Sketch `json:"total"`
}

func newLatency() Latency {
	timing := func() Timing { return Timing{newSketch(), newSketch()} }
	return Latency{Primary: timing(), Candidate: timing(), Delta: timing()}
}

func (l *Latency) timings() []*Timing { return []*Timing{&l.Primary, &l.Candidate, &l.Delta} }

func (l Latency) clone() Latency {
	for _, t := range l.timings() {
		t.First, t.Total = t.First.clone(), t.Total.clone()
	}
	return l
}

func (l *Latency) merge(other *Latency) {
	l.WarmUp += other.WarmUp
	l.Unknown += other.Unknown
	l.Pairs += other.Pairs
	theirs := other.timings()
	for i, t := range l.timings() {
		t.First.merge(theirs[i].First)
		t.Total.merge(theirs[i].Total)
	}
}

// time takes the times of a compared exchange.
func (t *Tally) time(x shadow.Exchange) {
	l := &t.s.Latency
	if l.WarmUp < t.options.WarmUp {
		l.WarmUp++
		return
	}
	ours, ok := span(x.Primary)
	theirs, also := span(x.Candidate)
	if !ok || !also {
		l.Unknown++
		return
	}
	l.Pairs++
	l.Primary.add(ours)
	l.Candidate.add(theirs)
	l.Delta.add([2]time.Duration{theirs[0] - ours[0], theirs[1] - ours[1]})
}

// span is how long the first and the last byte of a reply took.
func span(r shadow.Reply) (took [2]time.Duration, ok bool) {
	if r.Asked.IsZero() || r.First.Before(r.Asked) || r.Last.Before(r.First) {
		return took, false
	}
	return [2]time.Duration{r.First.Sub(r.Asked), r.Last.Sub(r.Asked)}, true
}

func (t *Timing) add(took [2]time.Duration) {
	t.First.add(took[0])
	t.Total.add(took[1])
}

// Sketch holds durations so that any quantile is right to 1 %, in 32 KiB at most,
// whatever their number. What is shorter than a hundred-thousandth of the longest is
// taken together.
type Sketch struct{ of *ddsketch.DDSketch }

const (
	accuracy  = 0.01
	bins      = 2048  // https://www.vldb.org/pvldb/vol12/p2195-masson.pdf: 80 µs to a year
	mostIndex = 40000 // beyond what a float64 comes to at this accuracy
	mostCount = 1 << 53
)

func newSketch() Sketch {
	s, err := ddsketch.LogCollapsingLowestDenseDDSketch(accuracy, bins)
	if err != nil { // only of an accuracy that is none
		panic(err)
	}
	return Sketch{s}
}

// add takes a duration. It counts milliseconds, as reports do.
func (s Sketch) add(d time.Duration) {
	// What no bin holds is a time beyond float64, which durations do not reach.
	_ = s.of.Add(float64(d) / float64(time.Millisecond))
}

// Count is how many durations it holds.
func (s Sketch) Count() int64 {
	if s.of == nil {
		return 0
	}
	return int64(s.of.GetCount())
}

// Milliseconds is the quantile q (0 to 1) in milliseconds; false when it holds
// nothing.
func (s Sketch) Milliseconds(q float64) (float64, bool) {
	if s.Count() == 0 {
		return 0, false
	}
	v, err := s.of.GetValueAtQuantile(q)
	return v, err == nil
}

func (s Sketch) clone() Sketch {
	if s.of == nil {
		return newSketch()
	}
	return Sketch{s.of.Copy()}
}

func (s Sketch) merge(other Sketch) {
	if other.of == nil {
		return
	}
	// It fails only for sketches of another accuracy, and there are none.
	_ = s.of.MergeWith(other.of)
}

// written is a sketch as it is kept: pairs of bin and count. The module's own form
// is not read, since on bytes from outside it allocates what they say.
type written struct {
	Negative [][2]int64 `json:"negative,omitempty"`
	Zero     int64      `json:"zero,omitempty"`
	Positive [][2]int64 `json:"positive,omitempty"`
}

// MarshalJSON writes the bins.
func (s Sketch) MarshalJSON() ([]byte, error) {
	var w written
	if s.of != nil {
		w = written{pairs(s.of.GetNegativeValueStore()), int64(s.of.GetZeroCount()), pairs(s.of.GetPositiveValueStore())}
	}
	return json.Marshal(w)
}

func pairs(bins store.Store) [][2]int64 {
	var all [][2]int64
	bins.ForEach(func(index int, count float64) bool {
		all = append(all, [2]int64{int64(index), int64(count)})
		return false
	})
	return all
}

// UnmarshalJSON reads them, from bytes that may be anything.
func (s *Sketch) UnmarshalJSON(text []byte) error {
	var w written
	if err := json.Unmarshal(text, &w); err != nil {
		return err
	}
	if w.Zero < 0 || w.Zero > mostCount {
		return fmt.Errorf("read latencies: %d is no count", w.Zero)
	}
	made := newSketch()
	if w.Zero > 0 {
		if err := made.of.AddWithCount(0, float64(w.Zero)); err != nil {
			return err
		}
	}
	err := errors.Join(fill(made.of.GetPositiveValueStore(), w.Positive), fill(made.of.GetNegativeValueStore(), w.Negative))
	if made.of.GetCount() > mostCount || math.IsNaN(made.of.GetCount()) {
		err = errors.Join(err, errors.New("read latencies: more than can be counted"))
	}
	*s = made
	return err
}

func fill(into store.Store, pairs [][2]int64) error {
	for _, p := range pairs {
		if p[0] < -mostIndex || p[0] > mostIndex || p[1] <= 0 || p[1] > mostCount {
			return fmt.Errorf("read latencies: %d times bin %d is none", p[1], p[0])
		}
		into.AddWithCount(int(p[0]), float64(p[1]))
	}
	return nil
}
