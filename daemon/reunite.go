package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/splitd/splitd/state"
)

// missing says why the store, which could not be read at the start, still holds
// what this daemon does not know; nil when it is known.
func (d *Daemon) missing() error {
	if !d.lost.Load() {
		return nil
	}
	if err := d.scribe.trouble(); err != nil {
		return err
	}
	return errors.New("the store has not been read since the start")
}

// reunite brings a store that could not be read at the start together with what
// has happened since: what is in force is right, and its generations go on from
// whichever is the later. Called by who raises, before.
func (d *Daemon) reunite(ctx context.Context) error {
	if !d.lost.Load() {
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
		d.view.Store(c.next)
		written = d.scribe.submitStore(func(store Store) error {
			_, err := write(store, nil, c.records, c.entries)
			return err
		})
		return nil
	})
	if err == nil {
		err = written.wait(ctx, raisePatience)
	}
	if err == nil {
		d.lost.Store(false)
	}
	return err
}

// reunion is what is in force as the next generation of what the store has.
func (d *Daemon) reunion(ctx context.Context, stored map[string]state.Record) change {
	now, c := d.now(), change{next: d.view.Load()}
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
		c.entries = append(c.entries, d.entry(itself, state.ActionAdopt, stored[name], record, "the store can be read again", now))
	}
	return c
}
