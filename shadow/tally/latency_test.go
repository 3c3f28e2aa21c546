package tally_test

import (
	"math"
	"testing"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// answered is an exchange whose sides took so long for the whole reply, and half of
// it for the first byte.
func answered(primary, candidate time.Duration) shadow.Exchange {
	reply := func(took time.Duration) shadow.Reply {
		return shadow.Reply{Asked: clock(0), First: clock(0).Add(took / 2), Last: clock(0).Add(took)}
	}
	return shadow.Exchange{Endpoint: "GET /", Primary: reply(primary), Candidate: reply(candidate)}
}

func TestLatencyIsOfPairsAndMayBeNegative(t *testing.T) {
	t.Parallel()
	counted := tally.New(tally.Options{WarmUp: 5})
	for range 5 {
		counted.Add(answered(time.Hour, time.Hour), nil, clock(0)) // cold
	}
	for i := range 1000 {
		// The candidate takes 10 ms less, whatever the request costs.
		took := time.Duration(i+20) * time.Millisecond
		counted.Add(answered(took, took-10*time.Millisecond), nil, clock(i))
	}
	counted.Add(compared("GET /"), nil, clock(0)) // without times
	l := counted.State().Latency
	if l.WarmUp != 5 || l.Pairs != 1000 || l.Unknown != 1 {
		t.Errorf("%d to warm up, %d pairs, %d unknown", l.WarmUp, l.Pairs, l.Unknown)
	}
	near := func(name string, s tally.Sketch, q, want float64) {
		t.Helper()
		if got, ok := s.Milliseconds(q); !ok || math.Abs(got-want) > math.Abs(want)*0.011+0.001 {
			t.Errorf("%s at %g is %g, want %g", name, q, got, want)
		}
	}
	near("primary", l.Primary.Total, 0.5, 519)
	near("primary's first byte", l.Primary.First, 0.99, 504)
	near("candidate", l.Candidate.Total, 0.99, 999)
	for _, q := range []float64{0, 0.01, 0.5, 0.99, 1} {
		near("the difference", l.Delta.Total, q, -10)
		near("the difference of first bytes", l.Delta.First, q, -5)
	}
}

func TestLatenciesMergeAndAreKept(t *testing.T) {
	t.Parallel()
	o := tally.Options{WarmUp: -1}
	together, first, second := tally.New(o), tally.New(o), tally.New(o)
	for i := range 2000 {
		x := answered(time.Duration(i*i)*time.Microsecond, time.Duration(i)*time.Millisecond)
		together.Add(x, nil, clock(i))
		if i%3 == 0 {
			first.Add(x, nil, clock(i))
		} else {
			second.Add(x, nil, clock(i))
		}
	}
	first.Merge(second)
	kept := readBack(t, bytesOf(t, first), o)
	want, got := together.State().Latency, kept.State().Latency
	for _, q := range []float64{0, 0.1, 0.5, 0.95, 0.99, 1} {
		a, _ := want.Delta.Total.Milliseconds(q)
		b, _ := got.Delta.Total.Milliseconds(q)
		if a != b {
			t.Errorf("at %g: %g together, %g merged and kept", q, a, b)
		}
	}
	if got.Pairs != 2000 || got.Delta.Total.Count() != 2000 {
		t.Errorf("%d pairs, %d counted", got.Pairs, got.Delta.Total.Count())
	}
}

func TestNoLatencyIsKnownOfNothing(t *testing.T) {
	t.Parallel()
	if v, ok := tally.New(tally.Options{}).State().Latency.Primary.Total.Milliseconds(0.5); ok {
		t.Errorf("the median of nothing is %g", v)
	}
	if _, ok := (tally.Sketch{}).Milliseconds(0.5); ok {
		t.Error("the median of an unset sketch is known")
	}
}
