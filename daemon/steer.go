package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// word is who asks for a change of overrides, and what the history says of it.
type word struct {
	who    control.Actor
	action state.Action
	undoes uint64
	reason string
	expect *uint64 // the generation that the caller last saw
	since  uint64  // the count of lowered when the caller began
}

// steer changes the overrides of one split, the heart of set, off, undo and
// expiry: choose says what they shall be. It reports no change when nothing
// would change.
func (d *Daemon) steer(ctx context.Context, w word, name string,
	choose func(record state.Record, now time.Time) (traffic.Overrides, error),
) (api.Change, error) {
	var answer api.Change
	var down []string
	warnings, err := d.carry(ctx, w.since, func(v *view) (change, error) {
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
		c, answer = d.overriding(w, record, overrides, now)
		if len(c.records) > 0 {
			c.next = v.with(c.records...)
			down = d.warnOfDown(c.next.split(record.Name), inForce(record).Weights())
		} else {
			c.silent = w.action == state.ActionUndo // which goes further back
		}
		return c, nil
	})
	if err != nil {
		return api.Change{}, err
	}
	answer.Warnings = append(down, warnings...)
	return answer, nil
}

// overriding is the change of one split's overrides, without a view, and its
// answer. Without a record it changes nothing.
func (d *Daemon) overriding(w word, record state.Record, overrides traffic.Overrides, now time.Time) (change, api.Change) {
	next := record
	next.Overrides, next.UpdatedAt = overrides, now
	next = relaid(next, layout(record))
	before, after := inForce(record), inForce(next)
	answer := api.Change{
		Envelope: api.Of(api.KindChange), Split: record.Name, Generation: uint64(record.Generation),
		PreviousPPM: int(before.CandidateWeight()), WeightPPM: int(after.CandidateWeight()),
		PreviousSamplePPM: int(before.Sample), SamplePPM: int(after.Sample),
	}
	c := change{reach: reachNumber, raises: holdingsOf(before).raisedBy(after)}
	if !equalWeights(before.Weights(), after.Weights()) || !sameClosed(before, after) || before.Sample != after.Sample {
		c.reach = reachWeights
	} else if !holdsDifferently(record.Overrides, overrides) {
		return change{}, answer
	}
	next.Generation = max(record.Generation, d.reserved[record.Name])
	next = advance(next, now) // begun notes its counters when it comes into force
	entry := d.entry(w.who, w.action, record, next, w.reason, now)
	entry.Undoes = w.undoes
	c.records, c.entries = []state.Record{next}, []state.Entry{entry}
	answer.Changed, answer.Generation = true, uint64(next.Generation)
	return c, answer
}

func sameClosed(a, b traffic.Split) bool {
	return slices.EqualFunc(a.Candidates, b.Candidates, func(x, y traffic.Backend) bool { return x.Closed == y.Closed })
}

// holdsDifferently says whether two sets of overrides differ in what they will
// do later: what they hold, for how long, and against what.
func holdsDifferently(a, b traffic.Overrides) bool {
	if len(a) != len(b) {
		return true
	}
	for name, x := range a {
		y, ok := b[name]
		if !ok || x.Weight != y.Weight || !x.Until.Equal(y.Until) || x.Off != y.Off || x.Closed != y.Closed || x.Drain != y.Drain || x.Rate != y.Rate || !x.KillAt.Equal(y.KillAt) {
			return true
		}
	}
	return false
}

func equalWeights(a, b map[string]traffic.Weight) bool {
	return !raises(a, b) && !raises(b, a)
}

// entry makes the history's line of a change.
func (d *Daemon) entry(who control.Actor, action state.Action, before, after state.Record, reason string, now time.Time) state.Entry {
	return state.Entry{
		Time: now, Split: after.Name, Generation: after.Generation, Action: action,
		Before: side(before), After: side(after),
		UID: who.UID, User: who.User, SudoUser: who.SudoUser, PID: who.PID, Command: who.Command, Reason: reason,
	}
}
