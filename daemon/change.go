package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// change is one step of the ledger, decided but not yet made.
type change struct {
	next    *view
	records []state.Record // as they will be, removed ones among them
	prior   []state.Record // as they were, to take a recorded raise back
	entries []state.Entry
	raises  bool
	reach   reach
	// running is the definition that an apply makes the running one, and
	// priorRunning the one before; nil outside an apply.
	running, priorRunning *state.Running
}

// reach says how far into the data planes a change goes.
type reach int

const (
	reachAll     reach = iota // definitions may differ
	reachWeights              // the weights of one split: the short way
	reachNone                 // only who holds the weights
)

// make carries a change out. Raising is recorded before it is applied: what is
// not on disk is not given to the candidate. Lowering is applied before it is
// recorded and never fails for the disk; what went wrong there comes back as
// warnings. Called under the change lock.
func (d *Daemon) make(ctx context.Context, c change) (warnings []string, err error) {
	if !c.raises {
		if err := d.enact(ctx, c); err != nil {
			return nil, err
		}
		c.records = d.rebase(ctx, c)
		entries, err := d.record(c)
		if err != nil {
			d.log.Error("record change", "error", err)
			warnings = append(warnings, fmt.Sprintf("the change is in force but not recorded: %v", err))
			entries = c.entries
		}
		return append(warnings, d.publish(entries)...), nil
	}
	entries, err := d.record(c)
	if err != nil {
		return nil, fmt.Errorf("raise refused, it cannot be recorded (lowering and `splitctl off` work): %w", err)
	}
	if err := d.enact(ctx, c); err != nil {
		return nil, errors.Join(err, d.takeBack(c, entries))
	}
	d.rebase(ctx, c)
	return d.publish(entries), nil
}

// record writes a change into the store, if there is anything to write.
func (d *Daemon) record(c change) ([]state.Entry, error) {
	if len(c.records) == 0 && (c.running == nil || *c.running == *c.priorRunning) {
		return nil, nil
	}
	return d.vault.commit(c.running, c.records, c.entries)
}

// enact puts a change into the data planes and, when that has worked, before
// the readers.
func (d *Daemon) enact(ctx context.Context, c change) error {
	d.steps.Add(1) // odd: between two states
	defer d.steps.Add(1)
	old := d.view.Load()
	switch c.reach {
	case reachAll:
		if err := d.planes.apply(ctx, c.next.splits(), old.splits(), c.next.paths); err != nil {
			return fmt.Errorf("apply configuration: %w", err)
		}
	case reachWeights:
		split := c.next.split(c.records[0].Name)
		if err := d.planes.setWeights(ctx, split); err != nil {
			return fmt.Errorf("set weights of split %q: %w", split.Name, err)
		}
	case reachNone:
	}
	d.view.Store(c.next)
	return nil
}

// rebase notes the flow counters again, now that the change is in force: what
// came in between belongs to the generation before.
func (d *Daemon) rebase(ctx context.Context, c change) []state.Record {
	if c.reach == reachNone {
		return c.records
	}
	rebased := make([]state.Record, 0, len(c.records))
	for _, record := range c.records {
		if !record.Removed {
			record = d.begin(ctx, record)
			d.view.Store(d.view.Load().with(record))
		}
		rebased = append(rebased, record)
	}
	return rebased
}

// takeBack records that a recorded raise did not come into force.
func (d *Daemon) takeBack(c change, entries []state.Entry) error {
	reverts := make([]state.Entry, 0, len(entries))
	for _, e := range entries {
		e.Action, e.Undoes, e.Sequence = state.ActionRevert, e.Sequence, 0
		e.Before, e.After = e.After, e.Before
		reverts = append(reverts, e)
	}
	_, err := d.vault.commit(c.priorRunning, c.prior, reverts)
	if err != nil {
		return fmt.Errorf("take the record back: %w", err)
	}
	return nil
}

// publish tells the world outside the store: the snapshot for `splitd
// restore`, the journal, the log and systemd's status line.
func (d *Daemon) publish(entries []state.Entry) (warnings []string) {
	if err := d.saveSnapshot(); err != nil {
		d.log.Error("save snapshot", "error", err)
		warnings = append(warnings, fmt.Sprintf("a reboot would restore an older state: %v", err))
	}
	for _, e := range entries {
		d.log.Info("changed", "split", e.Split, "generation", uint64(e.Generation), "action", string(e.Action),
			"weight", e.After.Sum().String(), "previous", e.Before.Sum().String(),
			"user", e.User, "uid", e.UID, "pid", e.PID, "sudo_user", e.SudoUser, "command", e.Command, "reason", e.Reason)
		if err := d.journal(e); err != nil {
			d.log.Error("append journal", "error", err)
			warnings = append(warnings, fmt.Sprintf("the change is not in the journal file: %v", err))
		}
	}
	d.tellSystemd()
	return warnings
}

// setOverrides is the change of one split's overrides, the heart of set, off,
// undo and expiry. It reports without a change when nothing would change.
func (d *Daemon) setOverrides(ctx context.Context, who control.Actor, action state.Action, undoes uint64,
	record state.Record, overrides traffic.Overrides, reason string, now time.Time,
) (api.Change, error) {
	next := record
	next.Overrides = overrides
	before, after := inForce(record).Weights(), inForce(next).Weights()
	weightsChange := !equalWeights(before, after)
	answer := api.Change{
		Envelope: api.Of(api.KindChange), Split: record.Name, Generation: uint64(record.Generation),
		PreviousPPM: int(inForce(record).CandidateWeight()), WeightPPM: int(inForce(next).CandidateWeight()),
	}
	if !weightsChange && !holdsDifferently(record.Overrides, overrides) {
		return answer, nil
	}
	next.UpdatedAt = now
	how := reachNone
	if weightsChange {
		how = reachWeights
		next = d.begin(ctx, advance(next, now))
	}
	entry := d.entry(who, action, record, next, reason, now)
	entry.Undoes = undoes
	warnings, err := d.make(ctx, change{
		next: d.view.Load().with(next), records: []state.Record{next}, prior: []state.Record{record},
		entries: []state.Entry{entry}, raises: raises(before, after), reach: how,
	})
	if err != nil {
		return api.Change{}, err
	}
	answer.Changed, answer.Generation, answer.Warnings = true, uint64(next.Generation), warnings
	return answer, nil
}

// begin notes the flow counters with which a generation begins, so that the
// observed share speaks of this generation only.
func (d *Daemon) begin(ctx context.Context, record state.Record) state.Record {
	split := inForce(record)
	split.Mode = d.view.Load().modes[record.Name]
	flows, err := d.planes.flows(ctx, split)
	if err != nil {
		d.log.Warn("read flow counters", "split", record.Name, "error", err)
		return record
	}
	record.Baseline = flows
	return record
}

// entry makes the history's line of a change.
func (d *Daemon) entry(who control.Actor, action state.Action, before, after state.Record, reason string, now time.Time) state.Entry {
	return state.Entry{
		Time: now, Split: after.Name, Generation: after.Generation, Action: action,
		Before: side(before), After: side(after),
		UID: who.UID, User: who.User, SudoUser: who.SudoUser, PID: who.PID, Command: who.Command, Reason: reason,
	}
}

func equalWeights(a, b map[string]traffic.Weight) bool {
	return !raises(a, b) && !raises(b, a)
}

// holdsDifferently says whether two sets of overrides differ in what they will
// do later: which candidates they hold, for how long, and against what.
func holdsDifferently(a, b traffic.Overrides) bool {
	if len(a) != len(b) {
		return true
	}
	for name, x := range a {
		y, ok := b[name]
		if !ok || x.Weight != y.Weight || !x.Until.Equal(y.Until) || x.Off != y.Off {
			return true
		}
	}
	return false
}

// find returns the record of the named split, or of the only one when name is
// "".
func (v *view) find(name string) (state.Record, error) {
	names := v.names()
	if name == "" {
		if len(names) != 1 {
			return state.Record{}, &api.Error{
				Envelope: api.Of(api.KindError), Code: api.CodeInvalid,
				Message: fmt.Sprintf("name a split: there are %d: %s", len(names), quoted(names)),
			}
		}
		name = names[0]
	}
	if !slices.Contains(names, name) {
		return state.Record{}, &api.Error{
			Envelope: api.Of(api.KindError), Code: api.CodeNotFound,
			Message: fmt.Sprintf("find split %q: there is none; the splits are %s", name, quoted(names)),
		}
	}
	return v.records[name], nil
}
