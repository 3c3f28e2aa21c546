package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// change is one step of the ledger, decided but not yet made. The zero change
// is none.
type change struct {
	next    *view
	records []state.Record // as they will be, removed ones among them
	entries []state.Entry
	raises  bool
	reach   reach
	// running is the definition that an apply makes the running one; nil
	// outside an apply.
	running *state.Running
}

// reach says how far into the data planes a change goes.
type reach int

const (
	reachAll     reach = iota // definitions may differ
	reachWeights              // the weights of some splits: the short way
	reachNone                 // only who holds the weights
)

// decision looks at the state of now and says what to change. It may be asked
// more than once and must not wait for a disk.
type decision func(now *view) (change, error)

// carry makes one change. Lowering is applied before it is recorded and waits
// neither for the disk nor for a raise that does; what went wrong there comes
// back as warnings. Raising goes the long way, see raise.
func (d *Daemon) carry(ctx context.Context, decide decision) ([]string, error) {
	caller := ctx
	ctx = context.WithoutCancel(ctx) // lowering is made however late
	d.changing.Lock()
	c, err := decide(d.view.Load())
	if err != nil || c.next == nil || c.raises {
		d.changing.Unlock()
		if err != nil || c.next == nil {
			return nil, err
		}
		return d.raise(caller, decide)
	}
	err = d.enact(ctx, &c)
	if err != nil {
		err = errors.Join(err, d.retreat(ctx, c, nil))
	}
	d.changing.Unlock()
	if err != nil {
		return nil, err
	}
	return d.recordLowering(ctx, c), nil
}

// raise makes one change that gives a candidate more: what is not on disk is
// not given. It waits for the disk without the change lock, so that lowering
// never waits behind it, and gives way to what was changed meanwhile.
func (d *Daemon) raise(ctx context.Context, decide decision) ([]string, error) {
	d.raising.Lock()
	defer d.raising.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, d.late(err)
	}
	if err := d.reunite(ctx); err != nil {
		return nil, refused(err)
	}
	d.changing.Lock()
	from := d.view.Load()
	c, err := decide(from)
	if err == nil && c.next != nil {
		d.reserve(c.records)
	}
	d.changing.Unlock()
	if err != nil || c.next == nil {
		return nil, err
	}
	if _, err := d.planes.preflight(c.next.splits(), c.next.paths); err != nil && c.reach == reachWeights {
		return nil, fmt.Errorf("raise refused: %w", err)
	}
	c.entries, err = d.record(ctx, c)
	if err != nil {
		d.takeBackLater(c)
		return nil, refused(err)
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(d.late(err), d.retreat(context.WithoutCancel(ctx), c, c.entries))
	}
	if d.view.Load() != from {
		err := refuse(api.CodeConflict, "raise: something else was changed meanwhile: look at `splitctl status` and try again")
		return nil, errors.Join(err, d.retreat(ctx, c, c.entries))
	}
	if err := d.enact(ctx, &c); err != nil {
		return nil, errors.Join(err, d.retreat(ctx, c, c.entries))
	}
	return d.publish(ctx, c.entries, raisePatience), nil
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

// reserve keeps the generations of a raise that is being recorded from being
// given to a lowering that overtakes it. Called under the change lock.
func (d *Daemon) reserve(records []state.Record) {
	for _, r := range records {
		d.reserved[r.Name] = max(d.reserved[r.Name], r.Generation)
	}
}

// record writes a change into the store, if there is anything to write.
func (d *Daemon) record(ctx context.Context, c change) ([]state.Entry, error) {
	if len(c.records) == 0 && (c.running == nil || *c.running == d.view.Load().running) {
		return nil, nil
	}
	return d.scribe.commit(ctx, raisePatience, c.running, c.records, c.entries)
}

// recordLowering writes what is in force already.
func (d *Daemon) recordLowering(ctx context.Context, c change) (warnings []string) {
	entries, err := c.entries, d.missing()
	if err == nil && (len(c.records) > 0 || c.running != nil) {
		var numbered []state.Entry
		if numbered, err = d.scribe.commit(ctx, lowerPatience, c.running, c.records, c.entries); err == nil {
			entries = numbered
		}
	}
	if err != nil {
		d.log.Error("record change", "error", err)
		warnings = append(warnings, fmt.Sprintf("the change is in force but not recorded: %v", err))
		warnings = append(warnings, d.leaveWord(ctx, entries)...)
	}
	return append(warnings, d.publish(ctx, entries, lowerPatience)...)
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
	e := entries[0]
	word := state.Forced{
		Splits: names, Time: e.Time, UID: e.UID, User: e.User, SudoUser: e.SudoUser, PID: e.PID, Command: e.Command, Reason: e.Reason,
	}
	err := d.scribe.give(ctx, lowerPatience, func() error { return state.WriteForcedSpare(d.options.Config.StateDir, word) })
	if err != nil {
		d.log.Error("mark forced off", "error", err)
		return []string{fmt.Sprintf("a restart would restore the old weights: %v", err)}
	}
	return nil
}

// enact puts a change into the data planes and, when that has worked, before
// the readers. What came while it was put there belongs to the generation
// before, so the counters are read again. Called under the change lock.
func (d *Daemon) enact(ctx context.Context, c *change) error {
	d.steps.Add(1) // odd: between two states
	defer d.steps.Add(1)
	if err := d.enter(ctx, *c); err != nil {
		return err
	}
	if c.reach != reachNone {
		for i, record := range c.records {
			if !record.Removed {
				c.records[i] = d.begin(ctx, record, c.next)
			}
		}
		c.next = c.next.with(c.records...)
	}
	d.view.Store(c.next)
	return nil
}

// enter puts a change into the data planes. Weights of a split that its plane
// does not have, because somebody flushed it, take the whole way.
func (d *Daemon) enter(ctx context.Context, c change) error {
	if c.reach == reachNone {
		return nil
	}
	if c.reach == reachWeights {
		splits := make([]traffic.Split, 0, len(c.records))
		for _, r := range c.records {
			splits = append(splits, c.next.split(r.Name))
		}
		err := d.planes.setWeights(ctx, splits)
		if err == nil || !errors.Is(err, netfilter.ErrNotInKernel) {
			return err
		}
		d.log.Warn("kernel has lost the splits; all is applied again", "error", err)
	}
	if err := d.planes.apply(ctx, c.next.splits(), d.view.Load().splits(), c.next.paths); err != nil {
		return fmt.Errorf("apply configuration: %w", err)
	}
	return nil
}

// retreat makes the state before a change that did not come into force the
// newest one, in the planes and in the store: as a later generation, because
// the failed one may have been seen. Called under the change lock.
func (d *Daemon) retreat(ctx context.Context, c change, recorded []state.Entry) error {
	back := d.view.Load()
	var records []state.Record
	for _, failed := range c.records {
		record, stands := back.records[failed.Name]
		if !stands {
			record = gone(failed, failed.UpdatedAt)
			back = back.buried(record)
		} else {
			record.Generation = max(record.Generation, failed.Generation) + 1
			back = back.with(record)
		}
		records = append(records, record)
	}
	if err := d.planes.apply(ctx, back.splits(), c.next.splits(), back.paths); err != nil {
		return fmt.Errorf("go back to the state before: %w: `splitctl plan` shows what differs", err)
	}
	d.view.Store(back)
	reverts := make([]state.Entry, 0, len(recorded))
	for i, e := range recorded {
		e.Action, e.Undoes, e.Sequence = state.ActionRevert, e.Sequence, 0
		e.Before, e.After, e.Generation = e.After, side(records[i]), records[i].Generation
		reverts = append(reverts, e)
	}
	var running *state.Running
	if c.running != nil {
		running = &back.running
	}
	if _, err := d.scribe.commit(ctx, lowerPatience, running, records, reverts); err != nil {
		return fmt.Errorf("record that it was taken back: %w", err)
	}
	return nil
}

// takeBackLater makes sure that a raise which was refused because the disk did
// not answer in time does not stay recorded when it does.
func (d *Daemon) takeBackLater(c change) {
	d.changing.Lock()
	defer d.changing.Unlock()
	v := d.view.Load()
	var records []state.Record
	for _, failed := range c.records {
		if record, stands := v.records[failed.Name]; stands {
			records = append(records, record)
		} else {
			records = append(records, gone(failed, failed.UpdatedAt))
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits for it
	if _, err := d.scribe.commit(ended, 0, nil, records, nil); err != nil && !errors.Is(err, errDisk) {
		d.log.Error("take back record", "error", err)
	}
}

// publish tells the world outside the store: the log, systemd's status line,
// the snapshot for `splitd restore`, the journal.
func (d *Daemon) publish(ctx context.Context, entries []state.Entry, patience time.Duration) (warnings []string) {
	for _, e := range entries {
		d.log.Info("changed", "split", e.Split, "generation", uint64(e.Generation), "action", string(e.Action),
			"weight", e.After.Sum().String(), "previous", e.Before.Sum().String(),
			"user", e.User, "uid", e.UID, "pid", e.PID, "sudo_user", e.SudoUser, "command", e.Command, "reason", e.Reason)
	}
	d.tellSystemd()
	err := d.scribe.give(ctx, patience, func() error { return errors.Join(d.saveSnapshot(), d.journal(entries...)) })
	if err != nil {
		d.log.Error("save snapshot and journal", "error", err)
		warnings = append(warnings, fmt.Sprintf("a reboot would restore an older state: %v", err))
	}
	return warnings
}

// word is who asks for a change of overrides, and what the history says of it.
type word struct {
	who    control.Actor
	action state.Action
	undoes uint64
	reason string
	expect *uint64 // the generation that the caller last saw
}

// steer changes the overrides of one split, the heart of set, off, undo and
// expiry: choose says what they shall be. It reports no change when nothing
// would change.
func (d *Daemon) steer(ctx context.Context, w word, name string,
	choose func(record state.Record, now time.Time) (traffic.Overrides, error),
) (api.Change, error) {
	var answer api.Change
	warnings, err := d.carry(ctx, func(v *view) (change, error) {
		record, err := v.expect(name, w.expect)
		if err != nil {
			return change{}, err
		}
		now := d.now()
		overrides, err := choose(record, now)
		if err != nil {
			return change{}, err
		}
		var c change
		c, answer = d.overriding(ctx, v, w, record, overrides, now)
		return c, nil
	})
	if err != nil {
		return api.Change{}, err
	}
	answer.Warnings = warnings
	return answer, nil
}

// overriding is the change of one split's overrides, and its answer.
func (d *Daemon) overriding(ctx context.Context, v *view, w word, record state.Record, overrides traffic.Overrides, now time.Time) (change, api.Change) {
	next := record
	next.Overrides, next.UpdatedAt = overrides, now
	before, after := inForce(record).Weights(), inForce(next).Weights()
	answer := api.Change{
		Envelope: api.Of(api.KindChange), Split: record.Name, Generation: uint64(record.Generation),
		PreviousPPM: int(inForce(record).CandidateWeight()), WeightPPM: int(inForce(next).CandidateWeight()),
	}
	c := change{reach: reachNone, raises: raises(before, after)}
	if !equalWeights(before, after) {
		c.reach = reachWeights
		next.Generation = max(record.Generation, d.reserved[record.Name])
		next = d.begin(ctx, advance(next, now), v)
	} else if !holdsDifferently(record.Overrides, overrides) {
		return change{}, answer
	}
	entry := d.entry(w.who, w.action, record, next, w.reason, now)
	entry.Undoes = w.undoes
	c.next, c.records, c.entries = v.with(next), []state.Record{next}, []state.Entry{entry}
	answer.Changed, answer.Generation = true, uint64(next.Generation)
	return c, answer
}

// begin notes the flow counters with which a generation begins, so that the
// observed share speaks of this generation only.
func (d *Daemon) begin(ctx context.Context, record state.Record, v *view) state.Record {
	split := inForce(record)
	split.Mode = v.modes[record.Name]
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

// expect returns the record of the named split, or of the only one when name
// is "", and refuses when it is not at the generation that the caller last saw.
func (v *view) expect(name string, generation *uint64) (state.Record, error) {
	record, err := v.find(name)
	if err != nil {
		return state.Record{}, err
	}
	if generation != nil && *generation != uint64(record.Generation) {
		return state.Record{}, refuse(api.CodeConflict, "change %q: it is at generation %d, not %d: look at `splitctl history %s` and try again",
			record.Name, record.Generation, *generation, record.Name)
	}
	return record, nil
}

// find returns the record of the named split, or of the only one when name is
// "".
func (v *view) find(name string) (state.Record, error) {
	names := v.names()
	if name == "" {
		if len(names) != 1 {
			return state.Record{}, refuse(api.CodeInvalid, "name a split: %s", v.choice())
		}
		name = names[0]
	}
	if !slices.Contains(names, name) {
		return state.Record{}, refuse(api.CodeNotFound, "find split %q: there is none of that name: %s", name, v.choice())
	}
	return v.records[name], nil
}
