package main

import (
	"cmp"
	"slices"
	"time"
)

// quantile is the value below which that share of the values lies; the zero
// value without values. It sorts them.
func quantile[T cmp.Ordered](values []T, share float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	slices.Sort(values)
	return values[min(int(share*float64(len(values))), len(values)-1)]
}

func median[T cmp.Ordered](values []T) T { return quantile(slices.Clone(values), 0.5) }

// ratio is the median of the turns' ratios: what drifts from one turn to the
// next cancels within each. low and high are the quartiles.
func ratio(of, to []float64) (middle, low, high float64) {
	var all []float64
	for i := range min(len(of), len(to)) {
		if to[i] > 0 {
			all = append(all, of[i]/to[i])
		}
	}
	return quantile(all, 0.5), quantile(all, 0.25), quantile(all, 0.75)
}

// times are durations of one thing done again and again.
type times []time.Duration

// each does it n times.
func each(n int, do func(i int) error) (times, error) {
	var all times
	for i := range n {
		started := time.Now()
		if err := do(i); err != nil {
			return nil, err
		}
		all = append(all, time.Since(started))
	}
	return all, nil
}
