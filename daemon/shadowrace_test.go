package daemon

import (
	"sync"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// A reload gives a split another play while others read reports and metrics of it,
// and save them. The race detector looks on.
func TestReportsAreReadAndSavedWhileReloadsChangeTheirSplits(t *testing.T) {
	split := shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole)
	w := newWorld(t, split)
	d := w.mustBoot()
	visit(d, "web")
	var readers sync.WaitGroup
	over := make(chan struct{})
	for _, read := range []func(){
		func() { _, _ = d.Report(t.Context(), "web") }, func() { _ = d.Sample(t.Context()) }, d.saveReports,
	} {
		readers.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					read()
				}
			}
		})
	}
	for i := range 20 {
		w.files.Splits[0].Shadow.Ignore = []string{"ignore body $.x", "ignore body $.y"}[i%2:]
		if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
			t.Error(err)
			break
		}
		visit(d, "web")
	}
	close(over)
	readers.Wait()
	// Reloads end shadows, which are in the coverage all the same.
	nettest.Eventually(t, "all flows are accounted for", func() bool {
		r := reportFrom(t, d, "web")
		return r.Cover.Eligible == 21 && r.Cover.AddsUp()
	})
}
