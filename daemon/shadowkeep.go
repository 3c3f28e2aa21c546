package daemon

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/splitd/splitd/shadow/shadower"
	"github.com/splitd/splitd/state"
)

const (
	// saveEvery is how often reports that have changed go to the disk: a crash loses
	// as much of them.
	saveEvery = 10 * time.Second
	// endPatience is how long the end waits for shadows at most.
	endPatience = 3 * time.Second
)

// keepReports saves reports at once, now and then, and when the relay has ended, which ctx
// says: then it ends the shadows first.
func (d *Daemon) keepReports(ctx context.Context) error {
	now := time.NewTicker(saveEvery)
	defer now.Stop()
	defer context.AfterFunc(ctx, func() { d.shadows.stage.Hurry(endPatience) })() // also of a save that is under way
	d.saveReports()                                                               // samples that were full in an earlier run, and are masked now
	for {
		select {
		case <-now.C:
			d.tendReports()
		case <-ctx.Done():
			d.shadows.end(endPatience)
			d.save(d.unsavedReports()) // behind one that is under way
			d.shadows.stage.Close()
			return nil
		}
	}
}

// tendReports saves reports that have changed, and lets go of splits that are no more and
// whose reports have not.
func (d *Daemon) tendReports() {
	d.letGo()
	d.saveReports()
}

// saving is a report on its way to the disk.
type saving struct {
	report  state.Report
	of      shadowed
	edition uint64
	resets  uint64 // of before it was read
}

// isForgotten says whether it was reset since: the disk has forgotten it, or will.
func (s saving) isForgotten() bool { return s.of.resets.Load() != s.resets }

// saveReports gives the disk the reports that have changed. It does not wait for
// it, and while the disk has some to write it gets no more.
func (d *Daemon) saveReports() {
	if d.shadows.saving.CompareAndSwap(false, true) {
		d.save(d.unsavedReports())
	}
}

// unsavedReports are those that have changed, as they are now.
func (d *Daemon) unsavedReports() []saving {
	var all []saving
	for name, one := range d.shadows.all() {
		if one.play == nil || one.play.Edition() == one.saved.Load() {
			continue
		}
		resets := one.resets.Load() // first: a reset that is not in it is behind what is read now
		text, edition, err := one.play.Bytes()
		if err != nil {
			d.log.Error("save report", "split", name, "error", err)
			if errors.Is(err, shadower.ErrLate) || errors.Is(err, shadower.ErrGone) {
				break // the others would wait as long
			}
			continue
		}
		all = append(all, saving{state.Report{Split: name, SavedAt: d.now(), Text: text}, one, edition, resets})
	}
	return all
}

// save gives reports to the disk, and ends what saving says when it has them.
func (d *Daemon) save(all []saving) {
	if len(all) == 0 {
		d.shadows.saving.Store(false)
		return
	}
	given := d.scribe.submitStore(func(store Store) error {
		defer d.shadows.saving.Store(false)
		all := slices.DeleteFunc(all, saving.isForgotten)
		reports := make([]state.Report, 0, len(all))
		for _, s := range all {
			reports = append(reports, s.report)
		}
		if err := store.SaveReports(reports...); err != nil {
			d.log.Warn("save reports; tried again", "error", err)
			return err
		}
		for _, s := range all {
			s.of.saved.Store(s.edition)
		}
		return nil
	})
	if given.full != nil {
		d.shadows.saving.Store(false)
		d.log.Warn("save reports; tried again", "error", given.full)
	}
}
