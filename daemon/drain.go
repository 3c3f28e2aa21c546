package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
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
		if err := d.drainable(record, request); err != nil {
			return nil, err
		}
		held := record.Overrides[request.Backend]
		if held.Drain && held.Rate == request.RatePerSecond {
			return record.Overrides, nil
		}
		word := traffic.Override{
			Actor: who.User, Reason: request.Reason, Since: now, Closed: true, Drain: true, Rate: request.RatePerSecond,
		}
		overrides := cloneOverrides(record.Overrides)
		overrides[request.Backend] = word
		word.Closed, word.Drain, word.Rate = false, false, 0
		return keepOthers(record, overrides, map[string]traffic.Weight{request.Backend: 0}, word), nil
	})
	if err != nil {
		return change, err
	}
	d.tend.poke()
	if request.Kill {
		d.kill(ctx, &change, request.Backend)
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

// drainable refuses what cannot be drained, and what this plane cannot do.
func (d *Daemon) drainable(record state.Record, request api.DrainRequest) error {
	if record.Definition.Primary.Name == request.Backend {
		return refuse(api.CodeInvalid, "drain %q: %q is its primary, which takes what the candidates leave: raise a candidate instead",
			record.Name, request.Backend)
	}
	if _, ok := record.Definition.Candidate(request.Backend); !ok {
		return refuse(api.CodeInvalid, "drain %q: it has no candidate %q: its candidates are %s",
			record.Name, request.Backend, quoted(candidateNames(record.Definition)))
	}
	if request.RatePerSecond > 0 {
		return d.canEnd(record, "drain --rate")
	}
	if request.Kill {
		return d.canEnd(record, "drain --kill")
	}
	return nil
}

// canEnd refuses to end flows that the kernel does not carry.
func (d *Daemon) canEnd(record state.Record, what string) error {
	if d.view.Load().modes[record.Name] != traffic.ModeProxy {
		return nil
	}
	return refuse(api.CodeUnavailable, "%s %q: not available in this version in mode proxy: without it new flows stay away and open ones end by themselves",
		what, record.Name)
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
func (d *Daemon) kill(ctx context.Context, change *api.Change, candidates ...string) {
	split := d.view.Load().split(change.Split)
	kernel := d.planes.inUse()
	if kernel == nil {
		return
	}
	ended := 0
	for _, name := range candidates {
		n, err := endAll(ctx, kernel, split, name)
		ended += n
		if err != nil {
			change.Warnings = append(change.Warnings, fmt.Sprintf("not all open flows of %q were ended: %v: try again", name, err))
		}
		if c, _ := split.Candidate(name); c.Local {
			change.Warnings = append(change.Warnings, fmt.Sprintf("%q is this host itself: its open flows cannot be ended from here", name))
		}
	}
	d.log.Info("ended open flows", "split", change.Split, "backends", candidates, "flows", ended)
	change.Ended = &ended
}

func endAll(ctx context.Context, kernel Kernel, split traffic.Split, backend string) (int, error) {
	flows, err := kernel.OpenFlows(ctx, netfilter.Which{Splits: []traffic.Split{split}, Backend: backend, Elsewhere: true})
	if err != nil {
		return 0, err
	}
	return kernel.End(ctx, flows)
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
