package daemon

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// reasonAdopted is why an override exists that nobody set through the daemon.
const reasonAdopted = "adopted from the kernel"

// reasonSaved is the same of what the kernel does not have.
const reasonSaved = "adopted from " + snapshotFile

// reasonLost is why a split is closed of which nobody knows what was in force.
const reasonLost = "closed: without its store nobody knows what was in force"

// reasonHeld is why a weight stays down while the store cannot record more.
const reasonHeld = "not raised: the store is not writable"

// inForce is what a record comes to: the definition with the weights that its
// overrides leave in force and the layout that they make of the record's,
// numbered by its generation.
func inForce(record state.Record) traffic.Split {
	split := traffic.Effective(record.Definition, record.Overrides)
	split.Generation = record.Generation
	split.Slots = record.Slots // the definition's are a beginning, see redefinedLayout
	if split.Slotted() {
		split.Slots = split.Layout()
	}
	return split
}

// settled is the outcome of settle.
type settled struct {
	record state.Record
	before holdings     // what candidates took before, as far as anybody knows
	action state.Action // what the history is told; "" when nothing changed
	ended  string       // what the operator is told of a sample that has ended with its protocol
}

// settle decides what one split of a definition starts from: its record in the
// store (nil: none) or what is known of it beside that (nil: nothing), whichever
// has the higher generation. The kernel is ahead after a lowering whose record
// was not written, after `off --force`, and when the store is lost.
func settle(definition traffic.Split, record *state.Record, outside *standing, now time.Time) settled {
	if outside != nil && (record == nil || outside.Generation > record.Generation) {
		return adopt(definition, record, *outside, now)
	}
	if record == nil {
		first := state.Record{Name: definition.Name, Generation: 1, Definition: definition, UpdatedAt: now}
		return settled{record: relaid(first, definition.Slots), action: state.ActionApply}
	}
	return redefine(definition, *record, now)
}

// closed is what a split starts from of which nobody knows what was in force: an
// `off` among it must not be undone by whoever has lost the store.
func closed(definition traffic.Split, now time.Time) settled {
	record := state.Record{
		Name: definition.Name, Generation: 1, Definition: definition, UpdatedAt: now,
		Overrides: switchOff(definition, itself.User, reasonLost, now),
	}
	return settled{record: relaid(record, definition.Slots), action: state.ActionAdopt}
}

// redefine puts a definition under a record: a new generation when the
// definition or the weights in force differ from what the record says.
func redefine(definition traffic.Split, record state.Record, now time.Time) settled {
	before := holdingsOf(inForce(record))
	next := record
	next.Definition = definition
	held, ended := ofProtocol(record, definition)
	next.Overrides = held.Prune(definition, now)
	next = relaid(next, redefinedLayout(definition, record))
	if record.Removed {
		before = nil
	}
	same := !record.Removed && sameDefinition(definition, record.Definition)
	if after := inForce(next); same && maps.Equal(before.side().Weights, after.Weights()) && before.sample() == after.Sample {
		record.Definition = definition // with what an older version did not store
		return settled{record: record, before: before}
	}
	action := state.ActionApply
	if same {
		action = state.ActionExpire // a ttl ended while nobody was there to see
	}
	next.Removed = false
	return settled{record: advance(next, now), before: before, action: action, ended: ended}
}

// adopt takes over the weights and the sample that are in force, as overrides where
// they differ from what the definition and the known overrides give.
func adopt(definition traffic.Split, record *state.Record, is standing, now time.Time) settled {
	next := state.Record{Name: definition.Name, Definition: definition, Overrides: traffic.Overrides{}, UpdatedAt: now}
	known, ended := true, ""
	if record != nil {
		var held traffic.Overrides
		held, ended = ofProtocol(*record, definition)
		next.Overrides = held.Prune(definition, now)
		known = sameDefinition(definition, record.Definition)
	}
	next.Generation = is.Generation
	file := inForce(next).Sample
	if want := is.Sample; want != file && (want < file || ended == "") {
		next.Overrides[traffic.SampleKey] = traffic.Override{
			Weight: want, Actor: "splitd", Reason: is.reason, Since: now, Off: is.Forced || definition.Pinned,
		}
	}
	for _, c := range inForce(next).Candidates {
		want, inKernel := is.Weights[c.Name]
		closed := is.Forced || slices.Contains(is.Closed, c.Name)
		if !inKernel || want == c.Weight && closed == c.Closed {
			continue
		}
		next.Overrides[c.Name] = traffic.Override{
			Weight: want, Actor: "splitd", Reason: is.reason, Since: now,
			Off: is.Forced || definition.Pinned, Closed: closed,
		}
	}
	if !known {
		next.Generation++
	}
	next = relaid(next, adoptedLayout(definition, record, is.SplitState))
	return settled{record: next, before: holdingsIn(is.SplitState), action: state.ActionAdopt, ended: ended}
}

// gone is a record whose split the definition no longer has. Should the split
// come back, its generation goes on, and what was switched off or drained is so
// still; other words give way to the file.
func gone(record state.Record, now time.Time) state.Record {
	record = advance(record, now)
	record.Removed = true
	record.Overrides, _ = outlasting(record.Overrides)
	return record
}

// outlasting tells the overrides that outlast a removal, those that let no flow
// through, from those that do not. A drain ends no more flows.
func outlasting(overrides traffic.Overrides) (kept, dropped traffic.Overrides) {
	for name, o := range overrides {
		if !o.Off && !o.Drain {
			dropped = with(dropped, name, o)
			continue
		}
		o.Rate, o.KillAt = 0, time.Time{}
		kept = with(kept, name, o)
	}
	return kept, dropped
}

func with(overrides traffic.Overrides, name string, o traffic.Override) traffic.Overrides {
	if overrides == nil {
		overrides = traffic.Overrides{}
	}
	overrides[name] = o
	return overrides
}

// advance gives a record its next generation.
func advance(record state.Record, now time.Time) state.Record {
	record.Generation++
	record.UpdatedAt = now
	record.Baseline = nil
	return record
}

// holdDown keeps every candidate of the record, and its sample, at or below what it
// had before: what happens instead of a raise that cannot be recorded. Its groups are cut in
// the definition in force, so that the next apply finds the file's to be more.
func holdDown(record state.Record, before holdings, now time.Time) state.Record {
	record.Overrides = cloneOverrides(record.Overrides)
	held := traffic.Override{Actor: "splitd", Reason: reasonHeld, Since: now, Off: true}
	split := inForce(record)
	if held.Weight = before.sample(); split.Sample > held.Weight {
		record.Overrides[traffic.SampleKey] = held
	}
	for i, c := range split.Candidates {
		was := before[c.Name]
		if held.Weight = was.weight; c.Weight > was.weight {
			record.Overrides[c.Name] = held
		}
		if was.grows(c) {
			record.Definition.Candidates = slices.Clone(record.Definition.Candidates)
			record.Definition.Candidates[i].Clients = c.Clients.Within(was.clients)
		}
	}
	return record
}

// switchOff returns the overrides under which every candidate has weight 0, and
// the sample too, whatever the file says.
func switchOff(definition traffic.Split, actor, reason string, now time.Time) traffic.Overrides {
	overrides := traffic.Overrides{}
	off := traffic.Override{Actor: actor, Reason: reason, Since: now, Off: true}
	if definition.Sample > 0 {
		overrides[traffic.SampleKey] = off
	}
	off.Closed = true
	for _, c := range definition.Candidates {
		overrides[c.Name] = off
	}
	return overrides
}

// offOverrides is switchOff for the candidates that have something, or would
// get it: from the file, once another candidate leaves room, when an override
// ends, or by a group; and for the sample, likewise. The others keep what holds
// them, but for a drain that ends flows: `off` stops that too.
func offOverrides(record state.Record, actor, reason string, now time.Time) traffic.Overrides {
	overrides := cloneOverrides(record.Overrides)
	definition, split := record.Definition, inForce(record)
	off := traffic.Override{Actor: actor, Reason: reason, Since: now, Off: true}
	held, holds := overrides[traffic.SampleKey]
	lasts := holds && staysAtNothing(held, definition)
	if !lasts && (definition.Sample > 0 || holds) {
		overrides[traffic.SampleKey] = off
	}
	off.Closed = true
	for i, c := range definition.Candidates {
		held, holds := overrides[c.Name]
		groups := len(c.Clients.Always) > 0
		lasts := holds && staysAtNothing(held, definition) && (held.Closed || !groups) && !held.EndsFlows()
		if split.Candidates[i].Weight > 0 || !lasts && (c.Weight > 0 || holds || groups) {
			overrides[c.Name] = off
		}
	}
	return overrides
}

// staysAtNothing says whether an override keeps what it is of at 0 for good.
func staysAtNothing(o traffic.Override, definition traffic.Split) bool {
	return o.Until.IsZero() && o.Weight == 0 && o.Holds(definition)
}

// goBack returns the overrides that bring the weights and the sample of a split back
// to those of a side of the history, under the definition of now: the overrides of then
// where they are enough, others where the file's weight has changed since. An
// override of then that has ended by now gives way to the file, and a time to
// end flows that has passed is over.
func goBack(definition traffic.Split, to state.Side, actor, reason string, now time.Time) traffic.Overrides {
	overrides := to.Overrides.Prune(definition, now)
	for name, o := range overrides {
		if !o.KillAt.IsZero() && !now.Before(o.KillAt) {
			o.KillAt = time.Time{}
			overrides[name] = o
		}
	}
	split := traffic.Effective(definition, overrides)
	word := traffic.Override{Actor: actor, Reason: reason, Since: now}
	expired := to.Overrides[traffic.SampleKey].Expired(now)
	if word.Weight = to.Sample; word.Weight != split.Sample && to.Weights != nil && !expired && definition.CheckSample() == nil {
		overrides[traffic.SampleKey] = word
	}
	for name, weight := range split.Weights() {
		want, known := to.Weights[name]
		if !known || want == weight || to.Overrides[name].Expired(now) {
			continue
		}
		word.Weight = want
		overrides[name] = word
	}
	return overrides
}

// raises says whether any candidate gets more than before.
func raises(before, after map[string]traffic.Weight) bool {
	for name, weight := range after {
		if weight > before[name] {
			return true
		}
	}
	return false
}

// side is what a record looks like in the history: nothing while the split is
// not there.
func side(record state.Record) state.Side {
	if record.Removed || record.Generation == 0 {
		return state.Side{}
	}
	split := inForce(record)
	return state.Side{Overrides: record.Overrides, Weights: split.Weights(), Sample: split.Sample}
}

// sameDefinition compares a definition with a stored one by what is stored of
// them. An older version stored nothing of what it did not know.
func sameDefinition(definition, stored traffic.Split) bool {
	definition.Generation, stored.Generation = 0, 0
	x, errX := json.Marshal(configs.Complete(definition))
	y, errY := json.Marshal(configs.Complete(stored))
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func cloneOverrides(overrides traffic.Overrides) traffic.Overrides {
	if overrides == nil {
		return traffic.Overrides{}
	}
	return maps.Clone(overrides)
}

// newest returns the override that was set last among those in force, if any.
func newest(record state.Record) (traffic.Override, bool) {
	var found []traffic.Override
	for _, c := range record.Definition.Candidates {
		if o, ok := record.Overrides[c.Name]; ok && o.Holds(record.Definition) {
			found = append(found, o)
		}
	}
	if len(found) == 0 {
		return traffic.Override{}, false
	}
	return slices.MaxFunc(found, func(a, b traffic.Override) int { return a.Since.Compare(b.Since) }), true
}
