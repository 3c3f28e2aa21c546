package daemon

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/state"
)

const (
	// saveEvery is how often reports that have changed go to the disk: a crash loses
	// as much of them.
	saveEvery = 10 * time.Second
	// endPatience is how long the end waits for shadows at most.
	endPatience = 3 * time.Second
)

// loadReports takes up what an earlier run has counted. What cannot be read begins
// anew: it keeps nothing from starting.
func (d *Daemon) loadReports(ctx context.Context) {
	type found struct {
		reports map[string]state.Report
		broken  map[string]error
	}
	all, err := ask(ctx, d.scribe, func(store Store) (f found, err error) {
		f.reports, f.broken, err = store.Reports()
		return f, err
	})
	if err != nil {
		d.log.Warn("reports of shadows begin anew", "error", err)
		return
	}
	for name, why := range all.broken {
		d.log.Warn("report begins anew: what the store has of it cannot be read", "split", name, "error", why)
	}
	d.shadows.mu.Lock()
	defer d.shadows.mu.Unlock()
	for name, r := range all.reports {
		d.shadows.kept[name] = r.Text
	}
}

// keepReports saves reports now and then, and when the relay has ended, which ctx
// says: then it ends the shadows first.
func (d *Daemon) keepReports(ctx context.Context) error {
	now := time.NewTicker(saveEvery)
	defer now.Stop()
	for {
		select {
		case <-now.C:
			d.saveReports()
		case <-ctx.Done():
			d.shadows.end(endPatience)
			d.saveReports()
			return nil
		}
	}
}

// saveReports gives the disk the reports that have changed. It does not wait for
// it, and while the disk has some to write it gets no more.
func (d *Daemon) saveReports() {
	var reports []state.Report
	editions := map[*atomic.Uint64]uint64{}
	if !d.shadows.saving.CompareAndSwap(false, true) {
		return
	}
	for name, one := range d.shadows.all() {
		if one.play == nil || one.play.Edition() == one.saved.Load() {
			continue
		}
		text, edition, err := one.play.Bytes()
		if err != nil {
			d.log.Error("save report", "split", name, "error", err)
			continue
		}
		reports = append(reports, state.Report{Split: name, SavedAt: d.now(), Text: text})
		editions[one.saved] = edition
	}
	if len(reports) == 0 {
		d.shadows.saving.Store(false)
		return
	}
	given := d.scribe.submitStore(func(store Store) error {
		defer d.shadows.saving.Store(false)
		if err := store.SaveReports(reports...); err != nil {
			d.log.Warn("save reports; tried again", "error", err)
			return err
		}
		for saved, edition := range editions {
			saved.Store(edition)
		}
		return nil
	})
	if given.full != nil {
		d.shadows.saving.Store(false)
		d.log.Warn("save reports; tried again", "error", given.full)
	}
}
