package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A plot is quantiles over time: how many percent of the replies took no longer.
type plot struct {
	Title string
	Lines []curve
	Ticks []tick
	Zero  float64 // where 0 ms is, for differences
	Sign  bool    // there may be values below 0
}

type curve struct{ Name, Colour, Points string }

type tick struct {
	X    float64
	Text string
}

// The area of a plot, in units of its viewBox.
const (
	left, right = 50.0, 780.0
	top, bottom = 10.0, 190.0
)

func plots(l *Latency) []plot {
	if l == nil {
		return nil
	}
	return []plot{
		plotOf("whole reply", []Quantiles{l.Primary, l.Candidate}, []string{"primary", "candidate"}),
		plotOf("first byte", []Quantiles{l.FirstByte.Primary, l.FirstByte.Candidate}, []string{"primary", "candidate"}),
		plotOf("whole reply, candidate less primary of the same exchange", []Quantiles{l.Delta}, []string{"difference"}),
	}
}

// plotOf draws curves over a scale that bends logarithms through 0, since a reply of
// 1 ms and one of 1 s are of one plot, and differences may be negative.
func plotOf(title string, all []Quantiles, names []string) plot {
	p := plot{Title: title}
	low, high := math.Inf(1), math.Inf(-1)
	for _, q := range all {
		for _, v := range q.Curve {
			if !finite(v) {
				return p
			}
			low, high = min(low, v), max(high, v)
		}
	}
	if low > high {
		return p
	}
	if p.Sign = low < 0; p.Sign {
		high = max(high, 0)
	}
	from, to := bend(low), bend(high)
	x := func(v float64) float64 {
		if to <= from {
			return (left + right) / 2
		}
		return round(left+(bend(v)-from)/(to-from)*(right-left), 1)
	}
	colours := []string{"#1565c0", "#ef6c00"}
	for i, q := range all {
		p.Lines = append(p.Lines, curve{names[i], colours[i%len(colours)], points(q, x)})
	}
	p.Zero = x(0)
	p.Ticks = ticks(low, high, x)
	return p
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// bend is the inverse hyperbolic sine of tens of microseconds: about the value
// itself near 0, and its logarithm beyond.
func bend(ms float64) float64 { return math.Asinh(ms * 100) }

func points(q Quantiles, x func(float64) float64) string {
	at := CurveAt()
	var b strings.Builder
	for i, v := range q.Curve[:min(len(at), len(q.Curve))] {
		fmt.Fprintf(&b, "%g,%g ", x(v), round(bottom-at[i]*(bottom-top), 1))
	}
	return strings.TrimSpace(b.String())
}

// ticks are powers of ten within the plot, not too near to each other.
func ticks(low, high float64, x func(float64) float64) []tick {
	values := []float64{0}
	for v := 0.01; v < 1e9; v *= 10 {
		values = append(values, v, -v)
	}
	slices.Sort(values)
	var list []tick
	for _, v := range values {
		if v < low || v > high {
			continue
		}
		at := x(v)
		if n := len(list); n > 0 && at-list[n-1].X < 60 {
			continue
		}
		list = append(list, tick{at, fmt.Sprintf("%g", v)})
	}
	return list
}
