//go:build e2ereal

package real

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/control/api"
)

// flips is how often the weight changes under load, and flipPause about how
// long it stays: long enough for some connections to begin at each weight.
const (
	flips     = 200
	flipPause = 40 * time.Millisecond
)

// course is the weight in force, for who wants to know what his connection was
// drawn with: it was drawn with a known weight if the moment before and the
// moment after it are the same.
type course struct {
	mu sync.Mutex
	at moment
}

type moment struct {
	change  int // counts changes
	settled bool
	ppm     int
}

func (c *course) now() moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// turn counts a change that begins, or, when it is settled, has ended.
func (c *course) turn(settled bool, ppm int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at.settled, c.at.ppm = settled, ppm
	if !settled {
		c.at.change++
	}
}

// flip changes the weight of the split by as many calls of splitctl, at random
// and to all and nothing now and then, and returns how long each call took.
func (l *lab) flip(split string, c *course) []time.Duration {
	l.t.Helper()
	random := rand.New(rand.NewPCG(25, 80))
	generation := l.status(split).Generation
	took := make([]time.Duration, 0, flips)
	ppm := c.now().ppm
	for n := range flips {
		previous := ppm
		for ppm == previous {
			ppm = randomWeight(random)
		}
		weight := fmt.Sprintf("%d.%04d%%", ppm/10_000, ppm%10_000)
		c.turn(false, 0)
		began := time.Now()
		answer := l.ok("set", split, weight, "--reason", fmt.Sprintf("change %d", n), "-o", "json")
		took = append(took, time.Since(began))
		c.turn(true, ppm)
		var change api.Change
		if err := json.Unmarshal([]byte(answer), &change); err != nil {
			l.t.Fatal(err)
		}
		generation++
		if !change.Changed || change.PreviousPPM != previous || change.WeightPPM != ppm || change.Generation != generation {
			l.t.Fatalf("set %s %s answered %+v, want %d to %d ppm at generation %d", split, weight, change, previous, ppm, generation)
		}
		time.Sleep(flipPause) // the pace of the changes
	}
	s := l.status(split)
	if s.Generation != generation || s.WeightPPM != ppm || !s.Kernel.Synced() {
		l.t.Errorf("after %d changes: %d ppm at generation %d, in sync %v; want %d at %d", flips, s.WeightPPM, s.Generation, s.Kernel.Synced(), ppm, generation)
	}
	return took
}

// randomWeight is 0 or 100 % in a quarter of the cases.
func randomWeight(random *rand.Rand) int {
	switch random.IntN(8) {
	case 0:
		return 0
	case 1:
		return 1_000_000
	}
	return random.IntN(1_000_001)
}

// median is the middle of the durations, which must be some.
func median(durations []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[len(sorted)/2].Round(100 * time.Microsecond)
}

// countedBy checks that splitd counted as many flows to each backend as that
// backend counted connections, for status and for Prometheus.
func (l *lab) countedBy(t testing.TB, split string, connections map[string]int) {
	t.Helper()
	metrics := l.old.Run("curl", "-sS", "--fail", "--noproxy", "*", "http://127.0.0.1:9480/metrics")
	for _, b := range l.status(split).Backends {
		if b.FlowsTotal == nil || *b.FlowsTotal != uint64(connections[b.Name]) {
			t.Errorf("splitd counted %+v of %s to %q, which had %d connections", b, split, b.Name, connections[b.Name])
		}
		line := fmt.Sprintf("splitd_flows_total{backend=%q,role=%q,split=%q} %d\n", b.Name, b.Role, split, connections[b.Name])
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics have no line %q:\n%s", line, metrics)
		}
	}
}
