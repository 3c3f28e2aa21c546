package daemon

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// telling is a Play whose numbers a test says.
type telling struct {
	Play
	numbers *play.Numbers
}

func (t telling) Numbers() play.Numbers { return *t.numbers }

// told is a Stage of such.
type told struct {
	Stage
	numbers *play.Numbers
}

func (s told) Play(o PlayOptions) (Play, error) {
	if before, ok := o.After.(telling); ok {
		o.After = before.Play
	}
	made, err := s.Stage.Play(o)
	return telling{made, s.numbers}, err
}

func TestEachNumberOfAShadowHasALabelOfItsOwn(t *testing.T) {
	of := telling{numbers: &play.Numbers{
		Counts: play.Counts{
			Open: 1, Panicked: 2, Unsound: 3, Breaker: "it hangs",
			Declined: runner.Declined{Full: 4, Broken: 5, Stopped: 6, Late: 7, Lost: 8},
		},
		Eligible: 9, Coverage: map[string]uint64{"compared": 10, "dropped": 11}, Match: 12, Mismatch: 13, Noise: 14,
	}}
	var unplayed atomic.Uint64
	unplayed.Store(20)
	s := &shadows{splits: map[string]*shadowed{"web": {play: of, unplayed: &unplayed}}}
	want := &metrics.Shadow{
		Sampled: new(uint64(15)), Played: new(uint64(16)), Left: new(uint64(17)),
		Declined: map[string]uint64{"full": 4, "broken": 5, "stopped": 6, "late": 7, "lost": 8, "fault": 20},
		Open:     1, Panics: map[string]uint64{"tee": 18, "driver": 2}, BreakerOpen: true,
		Eligible: 9, Coverage: map[string]uint64{"compared": 10, "dropped": 11}, Unsound: 3,
		Compared: map[string]uint64{"match": 12, "mismatch": 13, "noise": 14},
	}
	tees := map[string]splitter.TeeCounts{"web": {Sampled: 15, Tapped: 16, Refused: 17, Panicked: 18, Declined: 19}}
	if diff := cmp.Diff(want, s.sample("web", tees), cmpopts.IgnoreFields(metrics.Shadow{}, "Latency")); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

func TestStatusSaysThatWhoPlaysShadowsIsAway(t *testing.T) {
	w := newWorld(t, shadowedSplit("web", website(t, `{"n":1}`), traffic.Whole))
	var numbers play.Numbers
	d, err := w.bootWith(func(d *Daemon) { d.shadows.stage = told{d.shadows.stage, &numbers} })
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop() //nolint:errcheck // the test is over
	warned := func() []string {
		warnings := d.read(t.Context()).item("web").Warnings
		return slices.DeleteFunc(warnings, func(w string) bool { return !strings.Contains(w, "of some time ago") })
	}
	if got := warned(); len(got) > 0 {
		t.Errorf("while it is there status warns %q", got)
	}
	numbers.Away = "it is gone"
	if diff := cmp.Diff([]string{`what is known of the shadow at "new", and its report, is of some time ago: it is gone`}, warned()); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}
