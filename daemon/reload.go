package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// begins brings the planes to the configuration for the first time: it settles
// every split between files, store and kernel, looks at the host, and applies
// the outcome.
func (d *Daemon) begins(ctx context.Context) error {
	known, storeErr := d.scribe.records(ctx)
	definition, running, differsFrom := d.runningDefinition(ctx)
	modes, notes := d.resolved(definition.Splits)
	inKernel, err := d.kernelState(ctx, definition, modes, known)
	if err != nil {
		return err
	}
	forced, err := state.TakeForced(d.options.Config.StateDir)
	if err != nil {
		d.log.Error("read marker of a forced off", "error", err)
	}
	p := d.settleAll(definition, known, inKernel, forced)
	p.next.modes, p.next.running, p.next.differsFrom, p.next.auto = modes, running, differsFrom, notes
	findings, err := d.planes.preflight(p.next.splits(), p.next.paths)
	if err != nil {
		return err
	}
	warnings, _ := sorted(findings)
	for _, w := range slices.Concat(notes, warnings) {
		d.log.Warn("host", "warning", w)
	}
	if storeErr != nil {
		d.lost.Store(true)
	} else if len(p.records) > 0 {
		p.entries, storeErr = d.scribe.commit(ctx, raisePatience, nil, p.records, p.entries)
	}
	if storeErr != nil {
		d.log.Error("weights can only be lowered until the store can be written", "error", storeErr)
		p = p.heldDown(d.now())
	}
	return d.firstApply(ctx, p, storeErr == nil)
}

// firstApply puts the settled state into the planes.
func (d *Daemon) firstApply(ctx context.Context, p proposal, recorded bool) error {
	if err := d.planes.apply(ctx, p.next.splits(), nil, p.next.paths); err != nil {
		return fmt.Errorf("apply configuration: %w", err)
	}
	d.view.Store(d.withBaselines(ctx, p.next))
	d.reloads.Store(&metrics.Reload{At: d.now(), OK: true})
	d.publish(ctx, p.entries, raisePatience)
	dir := d.options.Config.StateDir
	return d.scribe.give(ctx, raisePatience, func() error {
		if recorded {
			if err := state.ForgetForced(dir); err != nil {
				d.log.Error("forget marker of a forced off", "error", err)
			}
		}
		if err := state.PrepareSpare(dir); err != nil {
			d.log.Warn("prepare for a full disk", "error", err)
		}
		return nil
	})
}

// missing says why the store, which could not be read at the start, still holds
// what this daemon does not know; nil when it is known.
func (d *Daemon) missing() error {
	if !d.lost.Load() {
		return nil
	}
	if err := d.scribe.trouble(); err != nil {
		return err
	}
	return errors.New("the store has not been read since the start")
}

// reunite brings a store that could not be read at the start together with what
// has happened since: what is in force is right, and its generations go on from
// whichever is the later. Called by who raises, before.
func (d *Daemon) reunite(ctx context.Context) error {
	if !d.lost.Load() {
		return nil
	}
	stored, err := d.scribe.records(ctx)
	if err != nil {
		return err
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	now, v := d.now(), d.view.Load()
	var records []state.Record
	var entries []state.Entry
	for _, name := range v.names() {
		record := v.records[name]
		record.Generation = max(record.Generation, stored[name].Generation)
		record = advance(record, now)
		v = v.with(d.begin(ctx, record, v))
		records = append(records, v.records[name])
		entries = append(entries, d.entry(itself, state.ActionAdopt, stored[name], record, "the store can be read again", now))
	}
	if err := d.planes.apply(ctx, v.splits(), d.view.Load().splits(), v.paths); err != nil {
		return fmt.Errorf("apply configuration: %w", err)
	}
	d.view.Store(v)
	if _, err := d.scribe.commit(ctx, lowerPatience, nil, records, entries); err != nil {
		return err
	}
	d.lost.Store(false)
	return nil
}

// runningDefinition is what `apply -f` last made the running definition, as
// long as no plain apply has come since, else the files'.
func (d *Daemon) runningDefinition(ctx context.Context) (definition configs.Definition, running state.Running, differsFrom string) {
	definition = d.options.Config.Definition
	running, err := d.scribe.running(ctx)
	if err != nil || running.Text == "" {
		return definition, state.Running{}, ""
	}
	sent, err := configs.ParseDefinition(running.Name, []byte(running.Text))
	if err != nil {
		d.log.Error("read the definition of the last `apply -f`; the files are used", "error", err)
		return definition, state.Running{}, ""
	}
	return sent, running, d.options.Sources
}

// kernelState reads what the kernel does, if anything of ours is or was there.
func (d *Daemon) kernelState(ctx context.Context, definition configs.Definition, modes map[string]traffic.Mode,
	known map[string]state.Record,
) (map[string]netfilter.SplitState, error) {
	needed := len(definition.ReturnPaths) > 0 || slices.Contains(slices.Collect(maps.Values(modes)), traffic.ModeKernel)
	was := slices.ContainsFunc(slices.Collect(maps.Values(known)), func(r state.Record) bool {
		return !r.Removed && r.Definition.Mode != traffic.ModeProxy
	})
	if !needed && !was && !d.leftPaths() {
		return nil, nil
	}
	kernel, err := d.planes.needKernel()
	if err != nil {
		if !needed {
			return nil, nil
		}
		return nil, err
	}
	states, err := kernel.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read kernel state: %w", err)
	}
	return states, nil
}

// leftPaths says that an earlier run put return paths into the kernel.
func (d *Daemon) leftPaths() bool {
	snapshot, err := state.ReadSnapshot(d.file(snapshotFile))
	return err == nil && len(snapshot.ReturnPaths) > 0
}

// proposal is a new view with the records and entries that lead to it.
type proposal struct {
	next    *view
	records []state.Record
	entries []state.Entry
	before  map[string]map[string]traffic.Weight // by split, as far as known
	raises  bool
}

// add adds one settled split.
func (p *proposal) add(s settled, entry state.Entry) {
	p.next.records[s.record.Name] = s.record
	p.before[s.record.Name] = s.before
	if s.action == "" {
		return
	}
	p.records = append(p.records, s.record)
	p.entries = append(p.entries, entry)
	p.raises = p.raises || raises(s.before, inForce(s.record).Weights())
}

// heldDown is the proposal with every raise taken out of it.
func (p proposal) heldDown(now time.Time) proposal {
	held := p.next
	for name, record := range p.next.records {
		held = held.with(holdDown(record, p.before[name], now))
	}
	p.next = held
	return p
}

// settleAll settles every split of a definition and removes those that it no
// longer has.
func (d *Daemon) settleAll(definition configs.Definition, known map[string]state.Record,
	kernel map[string]netfilter.SplitState, forced []state.Forced,
) proposal {
	now := d.now()
	p := newProposal(definition)
	for _, split := range definition.Splits {
		record, ok := lookup(known, split.Name)
		inKernel, _ := lookupState(kernel, split.Name)
		s := settle(split, record, inKernel, now)
		prior := state.Record{Name: split.Name}
		if ok {
			prior = *record
		}
		entry := d.entry(itself, s.action, prior, s.record, "", now)
		if !ok {
			entry.Before.Weights = s.before
		}
		if f, off := covering(forced, split.Name); off && !prior.UpdatedAt.After(f.Time) {
			s, entry = d.turnedOff(s, entry, f, now)
		}
		p.add(s, entry)
	}
	d.remove(&p, known, definition, itself, "", now)
	return p
}

// turnedOff carries out what a forced off asked for while no daemon could record
// it, in the name of who did it. The kernel may have it already.
func (d *Daemon) turnedOff(s settled, entry state.Entry, f state.Forced, now time.Time) (settled, state.Entry) {
	on := inForce(s.record).CandidateWeight() > 0
	if !on && s.action != state.ActionAdopt {
		return s, entry // it was off before
	}
	s.action = state.ActionOff
	s.record.Overrides = switchOff(s.record.Definition, f.User, f.Reason, f.Time)
	if on {
		s.record = advance(s.record, now)
	}
	who := control.Actor{UID: f.UID, User: f.User, SudoUser: f.SudoUser, PID: f.PID, Command: f.Command}
	off := d.entry(who, s.action, s.record, s.record, f.Reason, f.Time)
	off.Before = entry.Before
	return s, off
}

// covering returns the newest forced off that covers the split.
func covering(forced []state.Forced, split string) (state.Forced, bool) {
	for _, f := range slices.Backward(forced) {
		if f.Covers(split) {
			return f, true
		}
	}
	return state.Forced{}, false
}

// remove marks the records whose split the definition no longer has.
func (d *Daemon) remove(p *proposal, known map[string]state.Record, definition configs.Definition, who control.Actor, reason string, now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(known)) {
		record := known[name]
		has := slices.ContainsFunc(definition.Splits, func(s traffic.Split) bool { return s.Name == name })
		if record.Removed && !has {
			p.next.graves[name] = record
		}
		if record.Removed || has {
			continue
		}
		grave := gone(record, now)
		p.next.graves[name] = grave
		p.records = append(p.records, grave)
		p.entries = append(p.entries, d.entry(who, state.ActionRemove, record, grave, reason, now))
	}
}

func newProposal(definition configs.Definition) proposal {
	return proposal{
		next: &view{
			records: map[string]state.Record{}, graves: map[string]state.Record{}, paths: definition.ReturnPaths,
			places: definition.Places, notes: definition.Notes,
		},
		before: map[string]map[string]traffic.Weight{},
	}
}

// Apply takes a new definition: the files read again, or the text of the
// request. One that is bad changes nothing.
func (d *Daemon) Apply(ctx context.Context, who control.Actor, request api.ApplyRequest) (api.Apply, error) {
	answer, err := d.reload(ctx, who, request)
	d.reloads.Store(&metrics.Reload{At: d.now(), OK: err == nil})
	d.wakeExpiry()
	return answer, err
}

func (d *Daemon) reload(ctx context.Context, who control.Actor, request api.ApplyRequest) (api.Apply, error) {
	definition, differsFrom, notes, err := d.newDefinition(request)
	if err != nil {
		return api.Apply{}, err
	}
	modes, autoNotes := d.resolved(definition.Splits)
	findings, err := d.planes.preflight(resolvedSplits(definition.Splits, modes), definition.ReturnPaths)
	if err != nil {
		return api.Apply{}, err
	}
	var p proposal
	var samePaths bool
	warnings, err := d.carry(ctx, func(v *view) (change, error) {
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
	hostWarnings, _ := sorted(findings)
	answer := applied(p, slices.Concat(notes, autoNotes, hostWarnings, p.overruled(), warnings))
	answer.Changed = answer.Changed || !samePaths
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
		p.add(s, d.entry(who, s.action, prior, s.record, reason, now))
	}
	known := maps.Clone(v.graves)
	if known == nil {
		known = map[string]state.Record{}
	}
	maps.Copy(known, v.records)
	d.remove(&p, known, definition, who, reason, now)
	return p
}

// overruled says where the file's weight is not the one in force, and why.
func (p proposal) overruled() []string {
	var notes []string
	for _, name := range p.next.names() {
		record := p.next.records[name]
		for _, c := range inForce(record).Candidates {
			file, _ := record.Definition.Candidate(c.Name)
			if o, ok := record.Overrides[c.Name]; ok && file.Weight != c.Weight {
				notes = append(notes, fmt.Sprintf("split %q: the file's %s for %q is not in force: %s set %s; `splitctl set %s default` takes the file's",
					name, file.Weight, c.Name, o.Actor, c.Weight, name))
			}
		}
	}
	return notes
}

// applied is what an apply answers.
func applied(p proposal, warnings []string) api.Apply {
	answer := api.Apply{Envelope: api.Of(api.KindApply), Changed: len(p.records) > 0, Items: []api.Change{}, Warnings: warnings}
	for i, record := range p.records {
		weight := inForce(record).CandidateWeight()
		if record.Removed {
			weight = 0
		}
		answer.Items = append(answer.Items, api.Change{
			Envelope: api.Of(api.KindChange), Split: record.Name, Changed: true, Generation: uint64(record.Generation),
			PreviousPPM: int(p.entries[i].Before.Sum()), WeightPPM: int(weight), Removed: record.Removed,
		})
	}
	return answer
}

// newDefinition is what an apply is asked to take.
func (d *Daemon) newDefinition(request api.ApplyRequest) (definition configs.Definition, differsFrom string, notes []string, err error) {
	if request.Text != "" {
		definition, err = configs.ParseDefinition(request.Name, []byte(request.Text))
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

// withBaselines gives the records a baseline that the counters can have grown
// from: those of now where there is none, or where the counters have begun
// again since (a reboot; the relay's begin with the process).
func (d *Daemon) withBaselines(ctx context.Context, v *view) *view {
	for _, name := range v.names() {
		record := v.records[name]
		flows, err := d.planes.flows(ctx, v.split(name))
		if err != nil {
			d.log.Warn("read flow counters", "split", name, "error", err)
			continue
		}
		if record.Baseline == nil || begunAgain(record.Baseline, flows) {
			record.Baseline = flows
			v = v.with(record)
		}
	}
	return v
}

func begunAgain(baseline, flows map[string]uint64) bool {
	for name, count := range baseline {
		if flows[name] < count {
			return true
		}
	}
	return false
}

// reloadOnHangup applies on every SIGHUP until ctx ends; its error goes to the
// log and the metric.
func (d *Daemon) reloadOnHangup(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			answer, err := d.Apply(ctx, itself, api.ApplyRequest{Request: api.Request{Reason: "SIGHUP"}})
			if err != nil {
				d.log.Error("reload; the running configuration stays", "error", err)
				continue
			}
			d.log.Info("reloaded", "changed", answer.Changed, "warnings", answer.Warnings)
		}
	}
}

func lookup(records map[string]state.Record, name string) (*state.Record, bool) {
	record, ok := records[name]
	if !ok {
		return nil, false
	}
	return &record, true
}

func lookupState(states map[string]netfilter.SplitState, name string) (*netfilter.SplitState, bool) {
	s, ok := states[name]
	if !ok {
		return nil, false
	}
	return &s, true
}
