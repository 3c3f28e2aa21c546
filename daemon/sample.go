package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// Shadow changes the sample of a split by an operator's word, or drops that word.
func (d *Daemon) Shadow(ctx context.Context, who control.Actor, name string, request api.ShadowRequest) (api.Change, error) {
	w := word{who: who, action: state.ActionShadow, reason: request.Reason, expect: request.ExpectGeneration, since: d.lowered.Load()}
	change, err := d.steer(ctx, w, name, func(record state.Record, now time.Time) (traffic.Overrides, error) {
		if request.Default {
			return withoutSample(record.Overrides), nil
		}
		if err := d.mayShadow(record, request); err != nil {
			return nil, err
		}
		return overlaySample(record, traffic.Override{
			Weight: traffic.Weight(*request.SamplePPM), Actor: who.User, Reason: request.Reason,
			Since: now, Until: until(now, request.TTLSeconds),
			Off: record.Definition.Pinned && *request.SamplePPM == 0, // the way back always works
		}), nil
	})
	d.wakeExpiry()
	if err == nil && change.Changed {
		change.Warnings = append(change.Warnings, unguarded(d.view.Load().split(change.Split))...)
	}
	return change, err
}

// unguarded warns of a split whose writes are sent to the candidate, because nobody
// has said what is spoken in it.
func unguarded(split traffic.Split) []string {
	if split.Sample == 0 || split.Protocol != protocolRaw {
		return nil
	}
	return []string{fmt.Sprintf("%q has protocol raw: all that clients say is sent to %q too, also what changes something there; write `protocol: http` or `smtp` if that is what is spoken", split.Name, split.Shadow.To)}
}

// ofProtocol returns the overrides of a record without the word that gave it a sample,
// where the definition speaks another protocol than the one of which that was said:
// another rule says then what is sent to the candidate. What holds the sample at 0 stays,
// because the way back always works. The note says what has ended, "" when nothing has.
func ofProtocol(record state.Record, definition traffic.Split) (left traffic.Overrides, note string) {
	o, ok := record.Overrides[traffic.SampleKey]
	was, is := cmp.Or(record.Definition.Protocol, protocolRaw), cmp.Or(definition.Protocol, protocolRaw)
	if !ok || o.Off || o.Weight == 0 || was == is {
		return record.Overrides, ""
	}
	note = fmt.Sprintf("split %q: protocol %s became %s, by which another rule says what is sent to a candidate: the sample of %s that %s set ends, and the file's %s is in force; `splitctl plan` shows the rule, `splitctl shadow %s %s` sets the sample again",
		definition.Name, was, is, o.Weight, o.Actor, definition.Sample, definition.Name, o.Weight)
	return withoutSample(record.Overrides), note
}

// protocolRaw is what a split speaks where nobody has said it.
const protocolRaw = "raw"

// mayShadow refuses a sample that the file decides, and one that the definition does
// not allow. A sample of 0 is always allowed, also where the file pins another.
func (d *Daemon) mayShadow(record state.Record, request api.ShadowRequest) error {
	name := record.Name
	switch {
	case request.SamplePPM == nil:
		return refuse(api.CodeInvalid, "shadow %q: no sample is given: write it as in `splitctl shadow %s 100%%`", name, name)
	case !traffic.Weight(*request.SamplePPM).Valid():
		return refuse(api.CodeInvalid, "shadow %q: a sample of %d ppm: it must lie between 0%% and 100%%", name, *request.SamplePPM)
	case request.TTLSeconds < 0:
		return refuse(api.CodeInvalid, "shadow %q: ttl is negative", name)
	case *request.SamplePPM == 0:
		return nil
	case record.Definition.Pinned && record.Overrides[traffic.SampleKey].Off:
		return refuse(api.CodeConflict, "shadow %q: the file pins its sample (%s) and an operator's 0%% holds above it: `splitctl shadow %s default` drops it and takes the file's",
			name, d.view.Load().places[name], name)
	case record.Definition.Pinned:
		return refuse(api.CodeConflict, "shadow %q: the file pins its sample (%s): change shadow.sample there and run `%s`, or remove `pinned: true`; `splitctl shadow %s 0%%` works",
			name, d.view.Load().places[name], applyLine(d.view.Load().running), name)
	}
	if err := record.Definition.CheckSample(); err != nil && !slices.ContainsFunc(record.Definition.Service.Ports, isTCP) {
		return refuse(api.CodeInvalid, "shadow %q: %v", name, err) // there is nothing to change
	} else if err != nil {
		return refuse(api.CodeInvalid, "shadow %q: %v: %s", name, err, d.whereToChange(name))
	}
	return nil
}

func isTCP(p traffic.Port) bool { return p.Transport == traffic.TCP }

// overlaySample puts a sample above what holds now. One that already is in force,
// with no end to it, changes nothing.
func overlaySample(record state.Record, word traffic.Override) traffic.Overrides {
	held := record.Overrides[traffic.SampleKey]
	if inForce(record).Sample == word.Weight && word.Until.IsZero() && held.Until.IsZero() {
		return record.Overrides
	}
	overrides := cloneOverrides(record.Overrides)
	overrides[traffic.SampleKey] = word
	return overrides
}

// onlySample is what is left of overrides when those of weights are dropped.
func onlySample(overrides traffic.Overrides) traffic.Overrides {
	left := traffic.Overrides{}
	if o, ok := overrides[traffic.SampleKey]; ok {
		left[traffic.SampleKey] = o
	}
	return left
}

// withoutSample is what is left of them when that of the sample is dropped.
func withoutSample(overrides traffic.Overrides) traffic.Overrides {
	left := cloneOverrides(overrides)
	delete(left, traffic.SampleKey)
	return left
}

// shadowItem is the state of shadowing, and which layer decided the sample.
func shadowItem(record state.Record, split traffic.Split, is shadowing) api.Shadow {
	item := api.Shadow{SamplePPM: int(split.Sample), State: api.ShadowOff, Differs: is.differs, TLS: is.tls}
	if split.Sample > 0 {
		item.State, item.To = api.ShadowOn, split.Shadow.To
	}
	if is.paused != "" && split.Sample > 0 {
		item.State, item.Reason = api.ShadowPaused, is.paused
	}
	if o := record.Overrides[traffic.SampleKey]; split.Sample > 0 || !o.Since.IsZero() && o.Holds(record.Definition) {
		item.Origin = new(overrideItem(record, o))
	}
	return item
}
