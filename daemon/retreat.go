package daemon

import (
	"context"
	"fmt"

	"github.com/splitd/splitd/state"
)

// retreat is what going back from a change has come to.
type retreat struct {
	err    error // of the planes
	ticket ticket
}

// recorded waits for the record of the retreat.
func (r retreat) recorded(ctx context.Context) error {
	if err := r.ticket.wait(ctx, lowerPatience); err != nil {
		return fmt.Errorf("record that it was taken back: %w", err)
	}
	return nil
}

// retreat makes the state before a change that did not come into force the
// newest one, for readers, in the planes and in the store: as a later
// generation, because the failed one may have been seen. Called under the
// change lock.
func (d *Daemon) retreat(ctx context.Context, c change, entries []state.Entry) retreat {
	ctx = context.WithoutCancel(ctx)
	back, records := d.view.Load().without(c.records)
	err := d.planes.apply(ctx, back.splits(), c.next.splits(), back.paths)
	if err != nil {
		err = fmt.Errorf("go back to the state before: %w: `splitctl plan` shows what differs", err)
	}
	d.see(back)
	d.release(c.records)
	var running *state.Running
	if c.running != nil {
		running = &back.running
	}
	return retreat{err, d.scribe.submitStore(func(store Store) error {
		_, err := write(store, running, records, reverts(entries, records))
		return err
	})}
}

// without returns a view as if the failed records had never been tried, and
// the records that make it the newest state.
func (v *view) without(failed []state.Record) (*view, []state.Record) {
	records := make([]state.Record, 0, len(failed))
	for _, f := range failed {
		if record, stands := v.records.find(f.Name); stands {
			record.Generation = max(record.Generation, f.Generation) + 1
			v = v.with(record)
			records = append(records, record)
			continue
		}
		f.Generation = max(f.Generation, v.graves[f.Name].Generation)
		grave := gone(f, f.UpdatedAt)
		v = v.buried(grave)
		records = append(records, grave)
	}
	return v, records
}

// reverts are the history's lines for recorded entries that did not come into
// force; records are what stands instead, in the same order.
func reverts(entries []state.Entry, records []state.Record) []state.Entry {
	lines := make([]state.Entry, 0, len(entries))
	for i, e := range entries {
		e.Action, e.Undoes, e.Sequence = state.ActionRevert, e.Sequence, 0
		e.Before, e.After, e.Generation = e.After, side(records[i]), records[i].Generation
		lines = append(lines, e)
	}
	return lines
}
