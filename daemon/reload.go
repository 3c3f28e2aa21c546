package daemon

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/state"
)

// Apply takes a new definition: the files read again, or the text of the
// request. One that is bad changes nothing.
func (d *Daemon) Apply(ctx context.Context, who control.Actor, request api.ApplyRequest) (api.Apply, error) {
	answer, err := d.reload(ctx, who, request)
	d.retarget()
	d.shadows.reload()
	d.reloads.Store(&reloaded{metrics.Reload{At: d.now(), OK: err == nil}, request.Name})
	d.wakeExpiry()
	return answer, err
}

func (d *Daemon) reload(ctx context.Context, who control.Actor, request api.ApplyRequest) (api.Apply, error) {
	since := d.lowered.Load()
	definition, differsFrom, notes, err := d.newDefinition(request)
	if err == nil && request.Text != "" {
		err = cmp.Or(d.mayRun(who, definition.Splits), d.mayStandIn(who, definition.Splits))
	}
	if err != nil {
		return api.Apply{}, err
	}
	ofFiles, err := d.judgeFiles(&definition)
	if err != nil {
		return api.Apply{}, err
	}
	modes, autoNotes := d.resolved(definition.Splits)
	findings, err := d.planes.preflight(resolvedSplits(definition.Splits, modes), definition.ReturnPaths)
	if err != nil {
		return api.Apply{}, err
	}
	recounting := d.recounting(ctx, definition) // before it is in force
	var p proposal
	var samePaths bool
	warnings, err := d.carry(ctx, since, func(v *view) (change, error) {
		p = d.redefineAll(v, definition, who, request.Reason)
		p.next.modes, p.next.differsFrom, p.next.auto = modes, differsFrom, autoNotes
		p.next.running = state.Running{Name: request.Name, Text: request.Text}
		samePaths = reflect.DeepEqual(v.paths, p.next.paths) || len(v.paths)+len(p.next.paths) == 0
		return change{
			next: p.next, records: p.records, entries: p.entries, raises: p.raises, reach: reachAll, running: &p.next.running,
		}, nil
	})
	if err != nil {
		return api.Apply{}, err
	}
	hostWarnings := d.tellOfHost(findings)
	answer := applied(p, slices.Concat(notes, ofFiles, autoNotes, hostWarnings, p.overruled(), p.ended, recounting, p.parting, p.noneLeft(cmp.Or(request.Name, d.options.Sources)), warnings))
	answer.Changed, answer.ReturnPathsChanged = answer.Changed || !samePaths, !samePaths
	answer.FilesReadAgain = seenInto(definition.Splits)
	return answer, nil
}

// redefineAll settles every split of a definition against what is in force.
func (d *Daemon) redefineAll(v *view, definition configs.Definition, who control.Actor, reason string) proposal {
	now := d.now()
	p := newProposal(definition)
	for _, split := range definition.Splits {
		record, prior := v.known(split.Name), state.Record{Name: split.Name}
		if record != nil {
			prior = *record
		}
		s := settle(split, record, nil, now)
		if s.action != "" {
			s.record.Generation = max(s.record.Generation, d.reserved[split.Name]+1)
		}
		p.add(s, d.entry(who, s.action, prior, s.record, reason, now))
	}
	known := maps.Clone(v.graves)
	if known == nil {
		known = map[string]state.Record{}
	}
	for _, name := range v.names() {
		known[name] = v.records.get(name)
	}
	d.remove(&p, known, definition, who, reason, now)
	return p.gathered()
}

// newDefinition is what an apply is asked to take.
func (d *Daemon) newDefinition(request api.ApplyRequest) (definition configs.Definition, differsFrom string, notes []string, err error) {
	if request.Text != "" {
		definition, err = d.options.Config.ParseSent(request.Name, []byte(request.Text))
		return definition, d.options.Sources, definition.Notes, err
	}
	cfg, err := d.options.Reload()
	if err != nil {
		return configs.Definition{}, "", nil, err
	}
	return cfg.Definition, "", d.needRestart(cfg), nil
}

// needRestart names the scalars that a reload cannot change.
func (d *Daemon) needRestart(cfg configs.Config) []string {
	var changed []string
	was := d.options.Config
	for _, s := range []struct {
		key  string
		same bool
	}{
		{"control", cfg.Control == was.Control},
		{"http", cfg.HTTP == was.HTTP},
		{"log", cfg.Log == was.Log},
		{"state_dir", cfg.StateDir == was.StateDir},
		{"netfilter", cfg.Netfilter == was.Netfilter},
		{"flow_log", cfg.FlowLog == was.FlowLog},
		{"relay", cfg.Relay == was.Relay},
	} {
		if !s.same {
			changed = append(changed, s.key)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return []string{"changed, but needs a restart of splitd: " + strings.Join(changed, ", ")}
}

// reloadOnHangup applies on every SIGHUP until ctx ends; its error goes to the
// log and the metric.
func (d *Daemon) reloadOnHangup(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			if d.options.FlowLog != nil {
				d.options.FlowLog.Reopen()
			}
			answer, err := d.applyOnHangup(ctx)
			if err != nil {
				d.log.Error("reload; the running configuration stays", "error", err)
				continue
			}
			d.log.Info("reloaded", "changed", answer.Changed, "warnings", answer.Warnings)
		}
	}
}

// hangupTries is how often one SIGHUP reads the files.
const hangupTries = 5

// applyOnHangup applies, and again where something was set or lowered meanwhile:
// who sends a signal hears of no conflict, and cannot try again. What was set holds,
// because it is read anew with the files.
func (d *Daemon) applyOnHangup(ctx context.Context) (answer api.Apply, err error) {
	for range hangupTries {
		answer, err = d.Apply(ctx, itself, api.ApplyRequest{Request: api.Request{Reason: "SIGHUP"}})
		if !isConflict(err) {
			break
		}
	}
	return answer, err
}

// isConflict says whether a change was refused because another one came first.
func isConflict(err error) bool {
	refused, ok := errors.AsType[*api.Error](err)
	return ok && refused.Code == api.CodeConflict
}
