package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
)

// raise makes one change that gives a candidate more: what is not on disk is
// not given. It waits for the disk without the change lock, so that lowering
// never waits behind it, and gives way to what was asked for meanwhile.
func (d *Daemon) raise(ctx context.Context, since uint64, decide decision) (warnings []string, err error) {
	d.raising.Lock()
	defer d.raising.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, d.late(err)
	}
	if err := d.reunite(ctx); err != nil {
		return nil, refused(err)
	}
	var c change
	var from *view
	err = d.exclusively(func() (err error) {
		if err = d.overtaken(since); err == nil {
			from = d.view.Load()
			c, err = decide(from)
		}
		return err
	})
	if err != nil || c.next == nil {
		return nil, err
	}
	findings, err := d.planes.glance(c.touched(), c.next.paths, nil)
	if err != nil {
		return nil, fmt.Errorf("raise refused: %w", err)
	}
	host := d.tellOfHost(findings)
	attempt := &attempt{}
	var t ticket
	err = d.exclusively(func() error {
		if err := d.overtaken(since); err != nil || d.view.Load() != from {
			return errors.Join(err, d.conflict(from))
		}
		d.begun(ctx, &c)
		d.reserve(c.records)
		t = d.recordRaise(c, since, attempt)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := t.wait(ctx, raisePatience); err != nil {
		attempt.givenUp.Store(true)
		if errors.Is(err, errAbandoned) { // while it waited to be written
			return nil, d.overtaken(since)
		}
		return nil, refused(err)
	}
	c.entries = *attempt.entries.Load()
	warnings, err = d.enactRaise(context.WithoutCancel(ctx), ctx.Err(), since, from, c)
	if c.reach == reachAll || err != nil {
		return warnings, err // an apply has the host's already
	}
	return append(host, warnings...), nil
}

// enactRaise puts a recorded raise into force, or takes it back when something
// else was asked for meanwhile or its caller has gone.
func (d *Daemon) enactRaise(ctx context.Context, gone error, since uint64, from *view, c change) ([]string, error) {
	var published ticket
	var back retreat
	err := d.exclusively(func() error {
		err := errors.Join(d.overtaken(since), d.conflict(from))
		if gone != nil {
			err = d.late(gone)
		}
		if err == nil {
			err = d.enact(ctx, &c)
		}
		if err != nil {
			back = d.retreat(ctx, c, c.entries)
			return errors.Join(err, back.err)
		}
		d.release(c.records)
		published = d.publish(c.entries, c.onlyRaises(from))
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, back.recorded(ctx))
	}
	d.takeAttempts(c)
	return d.warnOf(published.wait(ctx, raisePatience)), nil
}

// overtaken refuses a raise when something that does not raise was asked for
// since the caller began: an `off` that was answered stays off.
func (d *Daemon) overtaken(since uint64) error {
	if d.lowered.Load() == since {
		return nil
	}
	return refuse(api.CodeConflict, "raise: something was lowered or set meanwhile: look at `splitctl status` and try again")
}

func (d *Daemon) conflict(from *view) error {
	if d.view.Load() == from {
		return nil
	}
	return refuse(api.CodeConflict, "raise: something else was changed meanwhile: look at `splitctl status` and try again")
}

// late refuses a raise that its caller no longer waits for: what was changed
// since then is newer.
func (d *Daemon) late(err error) error {
	err = fmt.Errorf("raise refused, its caller has gone: %w", err)
	d.log.Warn("refuse change", "error", err) // nobody else hears of it
	return err
}

func refused(err error) error {
	return fmt.Errorf("raise refused, it cannot be recorded (lowering and `splitctl off` work): %w", err)
}

// reserve keeps the generations of a raise that is being recorded, and those
// that taking it back would need, from being given to a lowering that overtakes
// it; release gives them free. Called under the change lock.
func (d *Daemon) reserve(records []state.Record) {
	for _, r := range records {
		d.reserved[r.Name] = max(d.reserved[r.Name], r.Generation+1)
	}
}

func (d *Daemon) release(records []state.Record) {
	for _, r := range records {
		delete(d.reserved, r.Name)
	}
}

// attempt is a raise on its way to the disk.
type attempt struct {
	givenUp atomic.Bool                   // its caller has run out of patience
	entries atomic.Pointer[[]state.Entry] // numbered, once it is written
}

// recordRaise submits the record of a raise. What was given up or overtaken
// before its turn is not written; what is given up while it is being written is
// taken back in the same turn. Called under the change lock.
func (d *Daemon) recordRaise(c change, since uint64, a *attempt) ticket {
	return d.scribe.submitStore(func(store Store) error {
		if a.givenUp.Load() || d.lowered.Load() != since {
			return errAbandoned
		}
		entries := c.entries
		if d.somethingToRecord(c) {
			var err error
			if entries, err = write(store, c.running, c.records, c.entries); err != nil {
				return err
			}
		}
		a.entries.Store(&entries)
		if !a.givenUp.Load() {
			return nil
		}
		_, records := d.view.Load().without(c.records)
		var running *state.Running
		if c.running != nil {
			running = &d.view.Load().running
		}
		_, err := write(store, running, records, reverts(entries, records))
		return err
	})
}
