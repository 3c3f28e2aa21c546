package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

var _ control.Operator = (*Daemon)(nil)

// Set changes candidates' weights by an operator's word, or drops that word.
func (d *Daemon) Set(ctx context.Context, who control.Actor, name string, request api.SetRequest) (api.Change, error) {
	w := word{who: who, action: state.ActionSet, reason: request.Reason, expect: request.ExpectGeneration, since: d.lowered.Load()}
	if request.Default {
		w.action = state.ActionDefault
	}
	change, err := d.steer(ctx, w, name, func(record state.Record, now time.Time) (traffic.Overrides, error) {
		if request.Default {
			return onlySample(record.Overrides), nil
		}
		if err := d.notPinned(record, "set"); err != nil {
			return nil, err
		}
		weights, err := requested(record, request)
		if err != nil {
			return nil, err
		}
		return overlay(record, weights, traffic.Override{
			Actor: who.User, Reason: request.Reason, Since: now, Until: until(now, request.TTLSeconds),
		}), nil
	})
	d.wakeExpiry()
	if err == nil && request.Kill {
		d.warnOfHanging(&change)
		d.kill(ctx, w, &change, setToZero(d.view.Load().records.get(change.Split).Definition, request)...)
	}
	return change, err
}

// notPinned refuses what a pinned file decides.
func (d *Daemon) notPinned(record state.Record, verb string) error {
	if !record.Definition.Pinned {
		return nil
	}
	place := d.view.Load().places[record.Name]
	if o, ok := newest(record); ok {
		held := "`off`"
		if o.Drain {
			held = "`drain`"
		}
		return refuse(api.CodeConflict, "%s %q: the file pins its weights (%s) and %s holds above them: `splitctl set %s default` drops it and takes the file's",
			verb, record.Name, place, held, record.Name)
	}
	return refuse(api.CodeConflict, "%s %q: the file pins its weights (%s): change the weight there and run `%s`, or remove `pinned: true`; `splitctl off` works",
		verb, record.Name, place, applyLine(d.view.Load().running))
}

// Off sets every candidate of a split to 0, now. It only lowers.
func (d *Daemon) Off(ctx context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	w := word{who: who, action: state.ActionOff, reason: request.Reason, expect: request.ExpectGeneration}
	change, err := d.steer(ctx, w, name, func(record state.Record, now time.Time) (traffic.Overrides, error) {
		return offOverrides(record, who.User, request.Reason, now), nil
	})
	if err == nil {
		d.idle.heard(who.User, d.now(), change)
	}
	return change, err
}

// OffAll does Off to every split, in as few steps of the planes as they can.
func (d *Daemon) OffAll(ctx context.Context, who control.Actor, request api.Request) (api.ChangeList, error) {
	w := word{who: who, action: state.ActionOff, reason: request.Reason}
	list := api.ChangeList{Envelope: api.Of(api.KindChangeList)}
	warnings, err := d.carry(ctx, 0, func(v *view) (change, error) {
		now := d.now()
		all := change{reach: reachNumber}
		list.Items = []api.Change{}
		for _, name := range v.names() {
			record := v.records.get(name)
			c, answer := d.overriding(w, record, offOverrides(record, who.User, request.Reason, now), now)
			list.Items = append(list.Items, answer)
			all.add(c)
		}
		if len(all.records) == 0 {
			return change{}, nil
		}
		all.next = v.with(all.records...)
		return all, nil
	})
	list.Warnings = warnings
	if err == nil {
		d.idle.heard(who.User, d.now(), list.Items...)
	}
	return list, err
}

// add joins the change of one split to one of several.
func (c *change) add(one change) {
	c.records = append(c.records, one.records...)
	c.entries = append(c.entries, one.entries...)
	if one.reach == reachWeights {
		c.reach = reachWeights
	}
}

// Undo restores the weights as before the newest change not yet undone.
func (d *Daemon) Undo(ctx context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	since := d.lowered.Load()
	record, err := d.view.Load().expect(name, request.ExpectGeneration)
	if err == nil {
		err = d.notPinned(record, "undo")
	}
	if err != nil {
		return api.Change{}, err
	}
	history, err := d.scribe.history(ctx, record.Name, 0)
	if err != nil {
		return api.Change{}, fmt.Errorf("undo %q: the history cannot be read (`splitctl off` and `splitctl set` to less work): %w", record.Name, err)
	}
	for {
		target, ok := state.NextUndo(history)
		if !ok {
			return api.Change{}, refuse(api.CodeFailed, "undo %q: there is no change left to undo: `splitctl history %s` has what there was, `splitctl set %s` a weight or `default`",
				record.Name, record.Name, record.Name)
		}
		w := word{who: who, action: state.ActionUndo, undoes: target.Sequence, reason: request.Reason, expect: request.ExpectGeneration, since: since}
		change, err := d.steer(ctx, w, record.Name, func(record state.Record, now time.Time) (traffic.Overrides, error) {
			return goBack(record.Definition, target.Before, who.User, request.Reason, now), nil
		})
		if err == nil && change.Changed && inForce(record).Slotted() {
			change.Warnings = append(change.Warnings, "the weights are as before; which clients are at which of the candidates may not be")
		}
		change.Warnings = append(change.Warnings, d.stillDrained(record, target)...)
		if err != nil || change.Changed {
			d.wakeExpiry()
			if err == nil {
				change.Undone = new(historyItem(target))
				change.Warnings = append(change.Warnings, d.idle.since(record.Name, history)...)
				if change.SamplePPM > change.PreviousSamplePPM { // perhaps of another protocol's days
					change.Warnings = append(change.Warnings, unguarded(d.view.Load().split(record.Name))...)
				}
			}
			return change, err
		}
		// Undoing that one changes nothing today: go further back.
		history = slices.Insert(history, 0, state.Entry{Action: state.ActionUndo, Undoes: target.Sequence})
	}
}

// stillDrained names the candidates that an undo has left drained: the change
// that it undid was only of the pace.
func (d *Daemon) stillDrained(was state.Record, undone state.Entry) []string {
	var told []string
	is := d.view.Load().records.get(was.Name)
	for _, c := range is.Definition.Candidates {
		o := is.Overrides[c.Name]
		if !o.Drain || !was.Overrides[c.Name].Drain || !undone.Before.Overrides[c.Name].Drain {
			continue
		}
		pace := "its open flows are left alone now"
		if o.Rate > 0 {
			pace = fmt.Sprintf("%g of its open flows a second are ended again", o.Rate)
		}
		if !o.KillAt.IsZero() {
			pace += fmt.Sprintf(", and all that are open at %s", o.KillAt.Format(time.RFC3339))
		}
		told = append(told, fmt.Sprintf("%q is drained as before the newest `drain` of it, %s: undo again, or set a weight, to open it", c.Name, pace))
	}
	return told
}

// requested reads the weights that a set asks for and checks that they fit.
func requested(record state.Record, request api.SetRequest) (map[string]traffic.Weight, error) {
	weights := map[string]traffic.Weight{}
	for name, ppm := range request.Weights {
		weights[name] = traffic.Weight(ppm)
	}
	if request.WeightPPM != nil {
		if len(record.Definition.Candidates) != 1 {
			return nil, refuse(api.CodeInvalid, "set %q: it has %d candidates: name them, as in `splitctl set %s a=5%% b=1%%`",
				record.Name, len(record.Definition.Candidates), record.Name)
		}
		weights[record.Definition.Candidates[0].Name] = traffic.Weight(*request.WeightPPM)
	}
	if len(weights) == 0 {
		return nil, refuse(api.CodeInvalid, "set %q: no weight is given", record.Name)
	}
	if request.TTLSeconds < 0 {
		return nil, refuse(api.CodeInvalid, "set %q: ttl is negative", record.Name)
	}
	if _, err := inForce(record).WithWeights(weights); err != nil {
		return nil, refuse(api.CodeInvalid, "set %q: %v", record.Name, err)
	}
	return weights, nil
}

// overlay puts the weights above what holds now. A candidate that already has
// its weight, with no end to it, keeps its override or the file's layer:
// setting what is already set changes nothing.
func overlay(record state.Record, weights map[string]traffic.Weight, word traffic.Override) traffic.Overrides {
	overrides := cloneOverrides(record.Overrides)
	current := inForce(record).Weights()
	for name, weight := range weights {
		if current[name] == weight && word.Until.IsZero() && overrides[name].Until.IsZero() && !reopened(record, name) {
			continue
		}
		word.Weight = weight
		overrides[name] = word
	}
	return keepOthers(record, overrides, weights, word)
}

// reopened says whether giving a candidate the weight that it has changes
// something: it ends a drain, and opens a candidate that has a group.
func reopened(record state.Record, name string) bool {
	held := record.Overrides[name]
	c, _ := record.Definition.Candidate(name)
	return held.Drain || held.Closed && len(c.Clients.Always) > 0
}

// keepOthers holds the candidates that were not named at what they have: the
// file's weight of one may wait for the room that another leaves.
func keepOthers(record state.Record, overrides traffic.Overrides, named map[string]traffic.Weight, word traffic.Override) traffic.Overrides {
	current := inForce(record).Weights()
	for name, weight := range traffic.Effective(record.Definition, overrides).Weights() {
		if _, ok := named[name]; !ok && weight != current[name] {
			word.Weight = current[name]
			overrides[name] = word
		}
	}
	return overrides
}

func until(now time.Time, ttlSeconds float64) time.Time {
	if ttlSeconds == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(ttlSeconds * float64(time.Second)))
}

// refuse makes an error that the API answers with that code.
func refuse(code api.Code, format string, args ...any) error {
	return &api.Error{Envelope: api.Of(api.KindError), Code: code, Message: fmt.Sprintf(format, args...)}
}

// History returns recorded changes, newest first.
func (d *Daemon) History(ctx context.Context, name string, limit int) (api.History, error) {
	entries, err := d.scribe.history(ctx, name, limit)
	if err != nil {
		return api.History{}, fmt.Errorf("read history: %w", err)
	}
	// What was removed has a history still, also where nothing else is known of it.
	if view := d.view.Load(); name != "" && len(entries) == 0 && view.known(name) == nil {
		_, err := view.find(name)
		return api.History{}, err
	}
	history := api.History{Envelope: api.Of(api.KindHistory), Items: make([]api.Entry, 0, len(entries))}
	for _, e := range entries {
		history.Items = append(history.Items, historyItem(e))
	}
	return history, nil
}

func historyItem(e state.Entry) api.Entry {
	weights := make(map[string]int, len(e.After.Weights))
	for name, w := range e.After.Weights {
		weights[name] = int(w)
	}
	return api.Entry{
		Sequence: e.Sequence, Time: e.Time, Split: e.Split, Generation: uint64(e.Generation), Action: string(e.Action), Ended: e.Ended,
		PreviousPPM: int(e.Before.Sum()), WeightPPM: int(e.After.Sum()), Weights: weights,
		PreviousSamplePPM: int(e.Before.Sample), SamplePPM: int(e.After.Sample), Undoes: e.Undoes,
		UID: e.UID, User: e.User, SudoUser: e.SudoUser, PID: e.PID, Command: e.Command, Reason: e.Reason,
	}
}

// Version describes this process.
func (d *Daemon) Version(context.Context) (api.VersionInfo, error) {
	return d.options.Version, nil
}
