package demo

import (
	"math"
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestIntervalHoldsAllButTheDoubt(t *testing.T) {
	for _, weight := range []traffic.Weight{1000, 5 * percent, 25 * percent, 50 * percent, 99 * percent, 999_000} {
		for _, n := range []int{1, 10, 400, 20_000} {
			low, high := interval(n, weight, doubt)
			var inside, below, above float64
			for k := range n + 1 {
				switch p := mass(n, k, weight); {
				case k < low:
					below += p
				case k > high:
					above += p
				default:
					inside += p
				}
			}
			if inside < 1-doubt || below > doubt/2 || above > doubt/2 {
				t.Errorf("interval(%d, %s) = %d..%d holds %f, below %f, above %f", n, weight, low, high, inside, below, above)
			}
			// One less on either side would be too narrow.
			if low < high && (below+mass(n, low, weight) <= doubt/2 || above+mass(n, high, weight) <= doubt/2) {
				t.Errorf("interval(%d, %s) = %d..%d is wider than needed", n, weight, low, high)
			}
			if total := inside + below + above; math.Abs(total-1) > 1e-6 {
				t.Errorf("the distribution of %d at %s adds up to %f", n, weight, total)
			}
		}
	}
}

func TestIntervalLeavesNoChanceAtTheEnds(t *testing.T) {
	if low, high := interval(400, 0, doubt); low != 0 || high != 0 {
		t.Errorf("interval at 0%% = %d..%d, want 0..0", low, high)
	}
	if low, high := interval(400, traffic.Whole, doubt); low != 400 || high != 400 {
		t.Errorf("interval at 100%% = %d..%d, want 400..400", low, high)
	}
}

// The wanted values come from sums of exact integers, computed elsewhere.
func TestIntervalOfKnownDistributions(t *testing.T) {
	tests := []struct {
		n         int
		weight    traffic.Weight
		low, high int
	}{
		{1, 50 * percent, 0, 1},
		{20, 50 * percent, 3, 17},
		{400, 5 * percent, 7, 36},
		{400, 25 * percent, 72, 129},
	}
	for _, tt := range tests {
		if low, high := interval(tt.n, tt.weight, doubt); low != tt.low || high != tt.high {
			t.Errorf("interval(%d, %s) = %d..%d, want %d..%d", tt.n, tt.weight, low, high, tt.low, tt.high)
		}
	}
}
