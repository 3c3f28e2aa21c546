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

var _ control.Operator = (*Daemon)(nil)

// Set changes candidates' weights by an operator's word, or drops that word.
func (d *Daemon) Set(ctx context.Context, who control.Actor, name string, request api.SetRequest) (api.Change, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	now := d.now()
	record, err := d.expect(name, request.Request)
	if err != nil {
		return api.Change{}, err
	}
	if request.Default {
		return d.setOverrides(ctx, who, state.ActionDefault, 0, record, traffic.Overrides{}, request.Reason, now)
	}
	if record.Definition.Pinned {
		return api.Change{}, refuse(api.CodeConflict, "set %q: the file pins its weights (%s): change the weight there and run `splitctl apply`, or remove `pinned: true`; `splitctl off` works",
			record.Name, d.view.Load().places[record.Name])
	}
	weights, err := requested(record, request)
	if err != nil {
		return api.Change{}, err
	}
	overrides := overlay(record, weights, traffic.Override{
		Actor: who.User, Reason: request.Reason, Since: now, Until: until(now, request.TTLSeconds),
	})
	change, err := d.setOverrides(ctx, who, state.ActionSet, 0, record, overrides, request.Reason, now)
	if err == nil {
		d.wakeExpiry()
	}
	return change, err
}

// Off sets every candidate of a split to 0, now. It only lowers.
func (d *Daemon) Off(ctx context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	record, err := d.expect(name, request)
	if err != nil {
		return api.Change{}, err
	}
	return d.off(ctx, who, record, request.Reason)
}

// OffAll does Off to every split. One that fails does not keep the others from
// being switched off.
func (d *Daemon) OffAll(ctx context.Context, who control.Actor, request api.Request) (api.ChangeList, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	list := api.ChangeList{Envelope: api.Of(api.KindChangeList), Items: []api.Change{}}
	var failed error
	for _, name := range d.view.Load().names() {
		change, err := d.off(ctx, who, d.view.Load().records[name], request.Reason)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		list.Items = append(list.Items, change)
	}
	return list, failed
}

func (d *Daemon) off(ctx context.Context, who control.Actor, record state.Record, reason string) (api.Change, error) {
	now := d.now()
	weights := inForce(record).Weights()
	overrides := cloneOverrides(record.Overrides)
	for name, o := range switchOff(record.Definition, who.User, reason, now) {
		if held, ok := overrides[name]; weights[name] > 0 || ok && !held.Until.IsZero() {
			overrides[name] = o
		}
	}
	return d.setOverrides(ctx, who, state.ActionOff, 0, record, overrides, reason, now)
}

// Undo restores the weights as before the newest change not yet undone.
func (d *Daemon) Undo(ctx context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	record, err := d.expect(name, request)
	if err != nil {
		return api.Change{}, err
	}
	history, err := d.vault.history(record.Name, 0)
	if err != nil {
		return api.Change{}, fmt.Errorf("undo %q: the history cannot be read (`splitctl off` and `splitctl set` to less work): %w", record.Name, err)
	}
	now := d.now()
	for {
		target, ok := state.NextUndo(history)
		if !ok {
			return api.Change{}, refuse(api.CodeFailed, "undo %q: there is no change left to undo", record.Name)
		}
		overrides := goBack(record.Definition, target.Before, who.User, request.Reason, now)
		change, err := d.setOverrides(ctx, who, state.ActionUndo, target.Sequence, record, overrides, request.Reason, now)
		if err != nil || change.Changed {
			return change, err
		}
		// Undoing that one changes nothing today: go further back.
		history = slices.Insert(history, 0, state.Entry{Action: state.ActionUndo, Undoes: target.Sequence})
	}
}

// expect finds the split and refuses when it is not at the generation that the
// caller last saw.
func (d *Daemon) expect(name string, request api.Request) (state.Record, error) {
	record, err := d.view.Load().find(name)
	if err != nil {
		return state.Record{}, err
	}
	if g := request.ExpectGeneration; g != nil && *g != uint64(record.Generation) {
		return state.Record{}, refuse(api.CodeConflict, "change %q: it is at generation %d, not %d: look at `splitctl history %s` and try again",
			record.Name, record.Generation, *g, record.Name)
	}
	return record, nil
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
		if current[name] == weight && word.Until.IsZero() && overrides[name].Until.IsZero() {
			continue
		}
		word.Weight = weight
		overrides[name] = word
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
func (d *Daemon) History(_ context.Context, name string, limit int) (api.History, error) {
	entries, err := d.vault.history(name, limit)
	if err != nil {
		return api.History{}, fmt.Errorf("read history: %w", err)
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
		Sequence: e.Sequence, Time: e.Time, Split: e.Split, Generation: uint64(e.Generation), Action: string(e.Action),
		PreviousPPM: int(e.Before.Sum()), WeightPPM: int(e.After.Sum()), Weights: weights, Undoes: e.Undoes,
		UID: e.UID, User: e.User, SudoUser: e.SudoUser, PID: e.PID, Command: e.Command, Reason: e.Reason,
	}
}

// Version describes this process.
func (d *Daemon) Version(context.Context) (api.VersionInfo, error) {
	return d.options.Version, nil
}
