package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/splitter"
)

// telling is a Play whose numbers a test says.
type telling struct {
	Play
	numbers *play.Numbers
}

func (t telling) Numbers() play.Numbers { return *t.numbers }

func TestEachNumberOfAShadowHasALabelOfItsOwn(t *testing.T) {
	of := telling{numbers: &play.Numbers{
		Counts: play.Counts{
			Open: 1, Panicked: 2, Unsound: 3, Breaker: "it hangs",
			Declined: runner.Declined{Full: 4, Broken: 5, Stopped: 6, Late: 7, Lost: 8},
		},
		Eligible: 9, Coverage: map[string]uint64{"compared": 10, "dropped": 11}, Match: 12, Mismatch: 13, Noise: 14,
	}}
	s := &shadows{splits: map[string]*shadowed{"web": {play: of}}}
	want := &metrics.Shadow{
		Sampled: new(uint64(15)), Played: new(uint64(16)), Left: new(uint64(17)),
		Declined: map[string]uint64{"full": 4, "broken": 5, "stopped": 6, "late": 7, "lost": 8},
		Open:     1, Panics: map[string]uint64{"tee": 18, "driver": 2}, BreakerOpen: true,
		Eligible: 9, Coverage: map[string]uint64{"compared": 10, "dropped": 11}, Unsound: 3,
		Compared: map[string]uint64{"match": 12, "mismatch": 13, "noise": 14},
	}
	tees := map[string]splitter.TeeCounts{"web": {Sampled: 15, Tapped: 16, Refused: 17, Panicked: 18, Declined: 19}}
	if diff := cmp.Diff(want, s.sample("web", tees), cmpopts.IgnoreFields(metrics.Shadow{}, "Latency")); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}
