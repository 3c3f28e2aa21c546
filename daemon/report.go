package daemon

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/state"
)

// Report returns what is known of how the candidate of a split answers.
func (d *Daemon) Report(_ context.Context, name string) (json.RawMessage, error) {
	record, err := d.view.Load().find(name)
	if err != nil {
		return nil, err
	}
	p, err := d.playOf(record)
	if err != nil {
		return nil, err
	}
	if p != nil {
		text, err := p.Report()
		if err != nil {
			return nil, refuse(api.CodeFailed, "%v", err)
		}
		return text, nil
	}
	return d.emptyReport(record.Name)
}

// playOf is the play of a split; nil of one that nothing was sampled of.
func (d *Daemon) playOf(record state.Record) (Play, error) {
	one := d.shadows.find(record.Name)
	switch {
	case one != nil && one.fault != nil:
		return nil, refuse(api.CodeFailed, "report %q: %v", record.Name, one.fault)
	case one != nil:
		return one.play, nil
	}
	split := d.view.Load().split(record.Name)
	if err := split.CheckSample(); err != nil {
		return nil, refuse(api.CodeFailed, "report %q: it is not shadowed: %v: %s", record.Name, err, d.whereToChange(record.Name))
	}
	if err := play.Check(split); err != nil {
		return nil, refuse(api.CodeFailed, "report %q: %v", record.Name, err)
	}
	return nil, nil
}

// emptyReport is that of a split that nothing was sampled of.
func (d *Daemon) emptyReport(name string) (json.RawMessage, error) {
	p, err := play.New(play.Options{Split: d.view.Load().split(name), Now: d.now})
	if err != nil {
		return nil, refuse(api.CodeFailed, "report %q: %v", name, err)
	}
	text, err := json.Marshal(p.Report())
	if err != nil {
		return nil, fmt.Errorf("write report of %q: %w", name, err)
	}
	return text, nil
}

// ResetReport forgets what was compared of a split. Nothing of its state changes,
// so it makes no generation; the history has who did it.
func (d *Daemon) ResetReport(_ context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	if name != "" && !d.view.Load().records.has(name) && d.shadows.forget(name) {
		return d.resetGone(who, name, request), nil
	}
	record, err := d.view.Load().expect(name, request.ExpectGeneration)
	if err != nil {
		return api.Change{}, err
	}
	p, err := d.playOf(record)
	if err != nil {
		return api.Change{}, err
	}
	weight := int(inForce(record).CandidateWeight())
	change := api.Change{
		Envelope: api.Of(api.KindChange), Split: record.Name, Generation: uint64(record.Generation), PreviousPPM: weight, WeightPPM: weight,
		Forgotten: &api.Forgotten{},
	}
	if p == nil {
		return change, nil
	}
	held, err := p.Reset()
	if err != nil {
		return api.Change{}, refuse(api.CodeFailed, "%v", err)
	}
	if one := d.shadows.find(record.Name); one != nil {
		one.resets.Add(1) // behind it: what a save has read before is not written any more
	}
	if held.From.IsZero() {
		return change, nil // there was nothing, and the history has nothing to tell
	}
	change.Changed = true
	change.Forgotten = &api.Forgotten{Exchanges: held.Eligible, Compared: held.Compared, From: new(held.From.UTC()), To: new(held.Until.UTC())}
	d.dropReport(d.entry(who, state.ActionReset, record, record, request.Reason, d.now()))
	return change, nil
}

// resetGone is of a split that is no more, whose report was kept should it come back,
// and is forgotten. Of what was in it the change says nothing.
func (d *Daemon) resetGone(who control.Actor, name string, request api.Request) api.Change {
	gone := state.Record{Name: name}
	d.dropReport(d.entry(who, state.ActionReset, gone, gone, request.Reason, d.now()))
	return api.Change{Envelope: api.Of(api.KindChange), Split: name, Changed: true}
}

// dropReport has the disk forget a report, and writes down who wanted it.
func (d *Daemon) dropReport(entry state.Entry) {
	d.announce([]state.Entry{entry})
	d.scribe.submitStore(func(store Store) error {
		err := store.DropReport(entry.Split)
		if err == nil {
			_, err = d.recordReset(store, entry)
		}
		if err != nil {
			d.log.Error("record the reset of a report", "split", entry.Split, "error", err)
		}
		return err
	})
}

func (d *Daemon) recordReset(store Store, entry state.Entry) ([]state.Entry, error) {
	entries, err := store.Commit(nil, []state.Entry{entry})
	if err != nil {
		return nil, err
	}
	return entries, d.journal(entries...)
}
