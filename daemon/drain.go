package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// Drain closes a candidate to new flows, those of its groups too, until its
// weight is set. It only lowers. Open flows stay, unless the request ends them.
func (d *Daemon) Drain(ctx context.Context, who control.Actor, name string, request api.DrainRequest) (api.Change, error) {
	if err := d.view.Load().candidateMissing(name, request.Backend); err != nil {
		return api.Change{}, err
	}
	w := word{who: who, action: state.ActionDrain, reason: request.Reason, expect: request.ExpectGeneration}
	change, err := d.steer(ctx, w, name, func(record state.Record, now time.Time) (traffic.Overrides, error) {
		if err := drainable(record, request.Backend); err != nil {
			return nil, err
		}
		held := record.Overrides[request.Backend]
		if held.Drain && held.Rate == request.RatePerSecond && held.KillAt.IsZero() && request.KillAfterSeconds == 0 {
			return record.Overrides, nil
		}
		word := traffic.Override{Actor: who.User, Reason: request.Reason, Since: now}
		overrides := cloneOverrides(record.Overrides)
		overrides[request.Backend] = drained(word, request)
		return keepOthers(record, overrides, map[string]traffic.Weight{request.Backend: 0}, word), nil
	})
	if err != nil {
		return change, err
	}
	d.tend.poke()
	if request.Kill || request.RatePerSecond > 0 || request.KillAfterSeconds > 0 {
		d.warnOfHanging(&change)
	}
	if request.Kill {
		d.kill(ctx, w, &change, request.Backend)
	}
	return change, nil
}

// candidateMissing refuses the name of a split where that of a candidate was to
// follow.
func (v *view) candidateMissing(split, candidate string) error {
	if split != "" {
		return nil
	}
	record, ok := v.records.find(candidate)
	if !ok {
		return nil
	}
	names := v.names()
	if _, ok := record.Definition.Candidate(candidate); ok && len(names) == 1 {
		return nil
	}
	return refuse(api.CodeInvalid, "drain %q: name a candidate: %s", candidate, strings.Join(candidateNames(record.Definition), ", "))
}

// drained is a word that a request makes a drain's.
func drained(word traffic.Override, request api.DrainRequest) traffic.Override {
	word.Closed, word.Drain, word.Rate = true, true, request.RatePerSecond
	if request.KillAfterSeconds > 0 {
		word.KillAt = word.Since.Add(time.Duration(request.KillAfterSeconds * float64(time.Second)))
	}
	return word
}

// drainable refuses what cannot be drained.
func drainable(record state.Record, backend string) error {
	if record.Definition.Primary.Name == backend {
		return refuse(api.CodeInvalid, "drain %q: %q is its primary, which takes what the candidates leave: raise a candidate instead",
			record.Name, backend)
	}
	if _, ok := record.Definition.Candidate(backend); !ok {
		return refuse(api.CodeInvalid, "drain %q: it has no candidate %q: its candidates are %s",
			record.Name, backend, quoted(candidateNames(record.Definition)))
	}
	return nil
}

func candidateNames(s traffic.Split) []string {
	names := make([]string, 0, len(s.Candidates))
	for _, c := range s.Candidates {
		names = append(names, c.Name)
	}
	return names
}

// kill ends the open flows of candidates of a split, attempts first. Whatever
// goes wrong is a warning: the candidates get no new flows by now.
func (d *Daemon) kill(ctx context.Context, w word, change *api.Change, candidates ...string) {
	v, ended, freed := d.view.Load(), 0, 0
	split, record := v.split(change.Split), v.records.get(change.Split)
	for _, name := range candidates {
		freed += d.planes.relay.Free(attempts{{Split: split.Name, Backend: name}: nil})
		n, err := d.endAll(ctx, split, name, record.Overrides[name].Since)
		ended += n
		if err != nil {
			change.Warnings = append(change.Warnings, fmt.Sprintf("not all open flows of %q were ended: %v: try again", name, err))
		}
		if c, _ := split.Candidate(name); c.Local && split.Mode == traffic.ModeKernel {
			change.Warnings = append(change.Warnings, fmt.Sprintf("%q is this host itself: its open flows cannot be ended from here", name))
		}
	}
	d.log.Info("ended open flows", "split", change.Split, "backends", candidates, "flows", ended, "freed", freed)
	d.noteEnded(w.who, record, ended, w.reason)
	change.Ended = &ended
}

// warnOfHanging says what becomes of flows that are ended where a packet of a
// flow that conntrack has forgotten may be dropped, so that nobody resets it.
func (d *Daemon) warnOfHanging(change *api.Change) {
	split := d.view.Load().split(change.Split)
	carriesTCP := slices.ContainsFunc(split.Service.Ports, func(p traffic.Port) bool { return p.Transport == traffic.TCP })
	if split.Mode == traffic.ModeKernel && carriesTCP && !d.options.Host.PicksUp() {
		change.Warnings = append(change.Warnings, "nf_conntrack_tcp_loose is 0: where a rule drops packets of unknown flows (`ct state invalid`), "+
			"clients whose flows are ended hang until their own timeout instead of being reset; `splitctl wait --for=drained` ends none")
	}
}

// setToZero are the candidates that a set has asked to be at 0.
func setToZero(definition traffic.Split, request api.SetRequest) []string {
	var names []string
	for _, c := range definition.Candidates {
		ppm, named := request.Weights[c.Name]
		if request.WeightPPM != nil {
			ppm, named = *request.WeightPPM, true
		}
		if named && ppm == 0 {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}
