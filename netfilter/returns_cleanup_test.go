package netfilter

import (
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestCleanupSaysWhenReturnPathsStayForLiveFlows(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]traffic.ReturnPath{"address": byAddress(), "mark": byMark()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.translate("10.0.0.200", "fd00::200")
			lab.wrongWay()
			before := lab.snapshot()
			lab.apply(paths...)
			send := lab.keepAsking()(service4)
			for range 2 {
				if got, want := lab.cleanupAll(false), (CleanupResult{LiveFlows: 1, ReturnFlows: 1, ReturnsLeft: true}); got != want {
					t.Errorf("cleanup with a live flow = %+v, want %+v", got, want)
				}
				if lines := lab.differences(paths); len(lines) > 0 {
					t.Errorf("cleanup took from under a live flow: %q", lines)
				}
				send()
			}
			if got, want := lab.cleanupAll(true), (CleanupResult{LiveFlows: 1, ReturnFlows: 1}); got != want {
				t.Errorf("cleanup now = %+v, want %+v", got, want)
			}
			if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
				t.Errorf("left by cleanup now: %q", lines)
			}
			if got := lab.cleanupAll(false); got != (CleanupResult{}) {
				t.Errorf("cleanup of a clean host = %+v", got)
			}
		})
	}
}

func (lab returnLab) cleanupAll(now bool) (result CleanupResult) {
	lab.t.Helper()
	lab.host.Do(func() (err error) { result, err = Cleanup(lab.t.Context(), labSettings, now); return err })
	return result
}
