package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/splitd/splitd/state"
)

// missing says why the store does not have what is in force: it could not be
// read at the start, or was lost since; nil when it has it.
func (d *Daemon) missing() error {
	lost := d.scribe.lost.Load()
	if lost == nil {
		return nil
	}
	if err := d.scribe.trouble(); err != nil {
		return err
	}
	return lost.err
}

// storeTrouble says why changes are not recorded now, or nil.
func (d *Daemon) storeTrouble() error {
	if err := d.missing(); err != nil {
		return err
	}
	return d.scribe.trouble()
}

// lookEvery is how long the loss of the store may go unnoticed while nobody
// changes anything.
const lookEvery = 5 * time.Second

// watchStore looks whether the store is where it was, until ctx ends.
func (d *Daemon) watchStore(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.scribe.submit(d.scribe.look)
		}
	}
}

// reunite brings a store that could not be read at the start, or is another one
// than it was, together with what has happened since: what is in force is right, and its generations go on from
// whichever is the later. Called by who raises, before.
func (d *Daemon) reunite(ctx context.Context) error {
	if err := d.scribe.submit(d.scribe.look).wait(ctx, raisePatience); err != nil && !errors.Is(err, state.ErrGone) {
		return err
	}
	if d.scribe.lost.Load() == nil {
		return nil
	}
	stored, err := d.scribe.records(ctx)
	if err != nil {
		return err
	}
	var written ticket
	err = d.exclusively(func() error {
		c := d.reunion(ctx, stored)
		if err := d.planes.apply(ctx, c.next.splits(), d.view.Load().splits(), c.next.paths); err != nil {
			return fmt.Errorf("apply configuration: %w", err)
		}
		d.see(c.next)
		written = d.scribe.submitStore(func(store Store) error {
			_, err := write(store, &c.next.running, c.records, c.entries)
			return err
		})
		return nil
	})
	if err == nil {
		err = written.wait(ctx, raisePatience)
	}
	if err == nil {
		d.scribe.lost.Store(nil)
	}
	return err
}

// reunion is what is in force as the next generation of what the store has.
func (d *Daemon) reunion(ctx context.Context, stored map[string]state.Record) change {
	now, c := d.now(), change{next: d.view.Load()}
	why := "the store can be read again"
	if len(stored) == 0 {
		why = "the store is new"
	}
	for name, record := range stored {
		if c.next.records.has(name) {
			continue
		}
		if !record.Removed {
			record = gone(record, now)
			c.records = append(c.records, record)
			c.entries = append(c.entries, d.entry(itself, state.ActionRemove, stored[name], record, "", now))
		}
		c.next = c.next.buried(record)
	}
	for _, name := range c.next.names() {
		record := c.next.records.get(name)
		record.Generation = max(record.Generation, stored[name].Generation)
		record = d.beginOne(ctx, advance(record, now), c.next)
		c.next = c.next.with(record)
		c.records = append(c.records, record)
		c.entries = append(c.entries, d.entry(itself, state.ActionAdopt, stored[name], record, why, now))
	}
	return c
}
