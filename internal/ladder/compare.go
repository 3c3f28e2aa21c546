package ladder

import (
	"slices"
	"time"
)

// A Shift is by how much times are longer in the second of two slices that were measured
// one after the other: the middle of all pairs, and between which bounds it is, each with
// a certainty of 95 %.
type Shift struct{ Middle, Least, Most time.Duration }

// ShiftOf is that of pairs, off without the shadow and on with it, by Wilcoxon's signed
// ranks (Hodges and Lehmann's estimate, and the bounds that belong to it): of a machine
// that is slow for a while both slices of a pair are, and a hiccup is in one of many
// pairs. Of fewer than five pairs no bounds are certain: they are the least and the most
// of all.
func ShiftOf(off, on []time.Duration) Shift {
	n := min(len(off), len(on))
	if n == 0 {
		return Shift{}
	}
	var middles []time.Duration // of each two pairs, and of each with itself
	for i := range n {
		for j := range i + 1 {
			middles = append(middles, (on[i]-off[i]+on[j]-off[j])/2)
		}
	}
	slices.Sort(middles)
	k := rarest(n)
	return Shift{Middle: middles[(len(middles)-1)/2], Least: middles[k], Most: middles[len(middles)-1-k]}
}

// rarest is how many of the middles are less than what all are with a certainty of 95 %:
// the greatest sum of ranks that comes, or a lesser one, in at most one of twenty of the
// ways in which n differences can have their signs.
func rarest(n int) int {
	const doubt = 0.05
	ways := make([]float64, n*(n+1)/2+1) // share of the signs by the sum of the ranks that are negative
	ways[0] = 1
	for rank := 1; rank <= n; rank++ {
		for sum := range slices.Backward(ways) {
			ways[sum] /= 2
			if sum >= rank {
				ways[sum] += ways[sum-rank] / 2
			}
		}
	}
	total := 0.0
	for sum, share := range ways {
		if total += share; total > doubt {
			return max(sum-1, 0)
		}
	}
	return 0
}

// Compare says whether a client could tell slices with the shadow from those without: it
// holds, or does not, where that is certain.
func Compare(off, on []time.Duration) Verdict {
	bound := tolerance(Quantile(off, 0.5))
	switch s := ShiftOf(off, on); {
	case s.Most <= bound:
		return Holds
	case s.Least > bound:
		return Fails
	}
	return CannotTell
}

// tolerance is how much longer than that something may take before a client could tell: a
// tenth, or a millisecond.
func tolerance(off time.Duration) time.Duration { return max(off/10, time.Millisecond) }
