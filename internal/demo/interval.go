package demo

import (
	"math"

	"github.com/splitd/splitd/traffic"
)

// interval returns the smallest and the largest number of candidates' flows
// among n that a share of weight gives in all but a part doubt of honest runs:
// each tail outside holds at most doubt/2 of the binomial distribution. At 0 %
// and 100 % there is no chance, and nothing but 0 and n will do.
func interval(n int, weight traffic.Weight, doubt float64) (low, high int) {
	switch weight {
	case 0:
		return 0, 0
	case traffic.Whole:
		return n, n
	}
	low, high = 0, n
	for below := mass(n, 0, weight); below <= doubt/2; below += mass(n, low, weight) {
		low++
	}
	for above := mass(n, n, weight); above <= doubt/2; above += mass(n, high, weight) {
		high--
	}
	return low, high
}

// mass is the binomial probability of k among n.
func mass(n, k int, weight traffic.Weight) float64 {
	p := float64(weight) / float64(traffic.Whole)
	choose := logFactorial(n) - logFactorial(k) - logFactorial(n-k)
	return math.Exp(choose + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
}

func logFactorial(n int) float64 {
	value, _ := math.Lgamma(float64(n) + 1)
	return value
}
