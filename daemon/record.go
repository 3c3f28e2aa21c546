package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/splitd/splitd/state"
)

func (d *Daemon) somethingToRecord(c change) bool {
	return len(c.records) > 0 || c.running != nil && *c.running != d.view.Load().running
}

// recordLowering submits the record of what is in force already, and what the
// world is told. Called under the change lock, so that the order on disk is the
// order in force.
func (d *Daemon) recordLowering(c change) (written, told ticket) {
	if c.switchesManyOff() && d.missing() == nil {
		return d.recordMany(c), ticket{}
	}
	missing, needed := d.missing(), d.somethingToRecord(c)
	d.announce(c.entries)
	entries := c.entries // the jobs' alone
	switch {
	case missing != nil:
		written = ticket{scribe: d.scribe, full: missing}
	case needed:
		written = d.scribe.submitStore(func(store Store) error {
			numbered, err := write(store, c.running, c.records, c.entries)
			if err == nil {
				entries = numbered
			}
			return err
		})
	}
	return written, d.scribe.submit(func() error { return d.tellForGood(entries) })
}

// recordsMany is from how many splits on a change takes long to make and to
// write.
const recordsMany = 200

func (c change) switchesManyOff() bool {
	return len(c.entries) > recordsMany && !slices.ContainsFunc(c.entries, func(e state.Entry) bool { return e.Action != state.ActionOff })
}

// recordMany submits what thousands of splits that were switched off leave on
// the disk. Who asked waits for the marker of a forced off alone, which says
// the same in one line; should the rest fail, a restart finds it.
func (d *Daemon) recordMany(c change) ticket {
	d.announce(c.entries)
	marker, dir := forcedBy(c.entries[0]), d.options.Config.StateDir
	marked := d.scribe.submit(func() error { return state.WriteForcedSpare(dir, marker) })
	rest := d.scribe.submit(d.scribe.withStore(func(store Store) error {
		entries, err := write(store, c.running, d.beginMany(c), c.entries)
		if err == nil {
			err = d.tellForGood(entries)
		}
		if err == nil {
			err = forgetMarker(dir, marker)
		}
		if err = errors.Join(err, state.PrepareSpare(dir)); err != nil {
			d.log.Error("record change", "splits", len(c.records), "error", err)
		}
		return err
	}))
	if rest.full != nil {
		d.log.Error("record change", "splits", len(c.records), "error", rest.full)
	}
	return marked
}

// beginMany notes the flow counters with which the generations have begun, a
// moment later than begun does, and returns the records with them.
func (d *Daemon) beginMany(c change) []state.Record {
	records := slices.Clone(c.records)
	d.begin(context.Background(), records, c.next)
	_ = d.exclusively(func() error {
		v := d.view.Load()
		d.view.Store(v.with(slices.DeleteFunc(slices.Clone(records), func(r state.Record) bool {
			now, stands := v.records.find(r.Name)
			return !stands || now.Generation != r.Generation
		})...))
		return nil
	})
	return records
}

// forgetMarker removes the marker once what it says is recorded, unless others
// stand beside it, which the next start looks at.
func forgetMarker(dir string, marker state.Forced) error {
	all, err := state.ReadForced(dir)
	if err != nil || len(all) != 1 || !all[0].Time.Equal(marker.Time) {
		return err
	}
	if _, err := state.TakeForced(dir); err != nil {
		return err
	}
	return state.ForgetForced(dir)
}

// forcedBy is the marker of whoever made the entry, for all splits.
func forcedBy(e state.Entry) state.Forced {
	return state.Forced{Time: e.Time, UID: e.UID, User: e.User, SudoUser: e.SudoUser, PID: e.PID, Command: e.Command, Reason: e.Reason}
}

// afterLowering waits a little for the disk and says what it did not do.
func (d *Daemon) afterLowering(ctx context.Context, c change, written, told ticket) (warnings []string) {
	if err := written.wait(ctx, lowerPatience); err != nil {
		d.log.Error("record change", "error", err)
		warnings = append(warnings, fmt.Sprintf("the change is in force but not recorded: %v", err))
		warnings = append(warnings, d.leaveWord(ctx, c.entries)...)
	}
	return append(warnings, d.warnOf(told.wait(ctx, lowerPatience))...)
}

// leaveWord marks splits that were switched off without a record: a restart or
// a reboot must not raise them again. The marker needs no room on the disk.
func (d *Daemon) leaveWord(ctx context.Context, entries []state.Entry) (warnings []string) {
	var names []string
	for _, e := range entries {
		if e.Action == state.ActionOff {
			names = append(names, e.Split)
		}
	}
	if len(names) == 0 {
		return nil
	}
	word := forcedBy(entries[0])
	word.Splits = names
	err := d.scribe.submit(func() error { return state.WriteForcedSpare(d.options.Config.StateDir, word) }).wait(ctx, lowerPatience)
	if err != nil {
		d.log.Error("mark forced off", "error", err)
		return []string{fmt.Sprintf("a restart would restore the old weights: %v", err)}
	}
	return nil
}

// publish tells the world outside the store of a raise in force. Called under
// the change lock; what it returns is waited for outside. If it only raises,
// nobody waits until the snapshot is on the disk: after a power cut before that,
// a boot restores what was in force before, and the daemon the rest, from the
// store. A candidate that gave its share to another must not get it back so.
func (d *Daemon) publish(entries []state.Entry, onlyRaises bool) ticket {
	d.announce(entries)
	if !onlyRaises {
		return d.scribe.submit(func() error { return d.tellForGood(entries) })
	}
	told := d.scribe.submit(func() error { return d.tell(entries) })
	d.scribe.submit(func() error { return d.logFault(d.saver.file.Sync()) })
	return told
}

// announce writes the log and systemd's status line.
func (d *Daemon) announce(entries []state.Entry) {
	if len(entries) > recordsMany {
		e := entries[0]
		d.log.Info("changed", "splits", len(entries), "action", string(e.Action),
			"user", e.User, "uid", e.UID, "pid", e.PID, "sudo_user", e.SudoUser, "command", e.Command, "reason", e.Reason)
		entries = nil // the journal and the history have each
	}
	for _, e := range entries {
		d.log.Info("changed", "split", e.Split, "generation", uint64(e.Generation), "action", string(e.Action),
			"weight", e.After.Sum().String(), "previous", e.Before.Sum().String(),
			"user", e.User, "uid", e.UID, "pid", e.PID, "sudo_user", e.SudoUser, "command", e.Command, "reason", e.Reason)
	}
	d.tellSystemd()
	d.wakeInclude()
}

// tell writes the snapshot for `splitd restore` and the journal; on the
// scribe's goroutine.
func (d *Daemon) tell(entries []state.Entry) error {
	return errors.Join(d.saver.save(d.view.Load(), d.now), d.journal(entries...))
}

// tellForGood is tell for who must know that a power cut brings nothing back.
func (d *Daemon) tellForGood(entries []state.Entry) error {
	return errors.Join(d.tell(entries), d.saver.file.Sync())
}

// logFault logs what nobody waits for.
func (d *Daemon) logFault(err error) error {
	if err != nil {
		d.log.Error("save snapshot and journal", "error", err)
	}
	return err
}

func (d *Daemon) warnOf(told error) []string {
	if told == nil {
		return nil
	}
	d.log.Error("save snapshot and journal", "error", told)
	return []string{fmt.Sprintf("a reboot would restore an older state: %v", told)}
}
