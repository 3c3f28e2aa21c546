package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
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
// every split between files, store and kernel, and applies the outcome.
func (d *Daemon) begins(ctx context.Context) error {
	known, storeErr := d.vault.records()
	if storeErr != nil {
		d.log.Error("read store; only lowering works until it does", "error", storeErr)
	}
	definition, running, differsFrom := d.runningDefinition()
	modes, notes := d.resolved(definition.Splits)
	inKernel, err := d.kernelState(ctx, definition, modes, known)
	if err != nil {
		return err
	}
	forced, err := state.TakeForced(d.options.Config.StateDir)
	if err != nil {
		return fmt.Errorf("%w: it says which splits were forced off; remove it to forget that", err)
	}
	p := d.settleAll(definition, known, inKernel, forced)
	p.next.modes, p.next.running, p.next.differsFrom, p.next.warnings = modes, running, differsFrom, notes
	if storeErr == nil && len(p.records) > 0 {
		p.entries, storeErr = d.vault.commit(nil, p.records, p.entries)
	}
	if storeErr != nil {
		d.log.Error("record start; nothing is raised until the store can be written", "error", storeErr)
		p = p.heldDown(d.now())
	} else if err := state.ForgetForced(d.options.Config.StateDir); err != nil {
		return err
	}
	return d.firstApply(ctx, p)
}

// firstApply puts the settled state into the planes.
func (d *Daemon) firstApply(ctx context.Context, p proposal) error {
	warnings, err := d.planes.preflight(p.next.splits(), p.next.paths)
	if err != nil {
		return err
	}
	p.next.tell(warnings)
	for _, w := range p.next.warnings {
		d.log.Warn("host", "warning", w)
	}
	if err := d.planes.apply(ctx, p.next.splits(), nil, p.next.paths); err != nil {
		return fmt.Errorf("apply configuration: %w", err)
	}
	p.next = d.withBaselines(ctx, p.next)
	d.view.Store(p.next)
	d.reloads.Store(&metrics.Reload{At: d.now(), OK: true})
	d.publish(p.entries)
	return nil
}

// runningDefinition is what `apply -f` last made the running definition, as
// long as no plain apply has come since, else the files'.
func (d *Daemon) runningDefinition() (definition configs.Definition, running state.Running, differsFrom string) {
	definition = d.options.Config.Definition
	running, err := d.vault.running()
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
	if !needed && !was {
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

// proposal is a new view with the records and entries that lead to it.
type proposal struct {
	next    *view
	records []state.Record
	prior   []state.Record
	entries []state.Entry
	before  map[string]map[string]traffic.Weight // by split, as far as known
	raises  bool
}

// add adds one settled split.
func (p *proposal) add(s settled, entry state.Entry, prior state.Record) {
	p.next.records[s.record.Name] = s.record
	p.before[s.record.Name] = s.before
	if s.action == "" {
		return
	}
	p.records = append(p.records, s.record)
	p.prior = append(p.prior, prior)
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
		if f, off := covering(forced, split.Name); off {
			s, entry = d.turnedOff(s, entry, f, now)
		}
		p.add(s, entry, prior)
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
		if record.Removed || has {
			continue
		}
		gone := advance(record, now)
		gone.Removed = true
		p.records = append(p.records, gone)
		p.prior = append(p.prior, record)
		p.entries = append(p.entries, d.entry(who, state.ActionRemove, record, gone, reason, now))
	}
}

func newProposal(definition configs.Definition) proposal {
	return proposal{
		next: &view{
			records: map[string]state.Record{}, paths: definition.ReturnPaths,
			places: definition.Places, notes: definition.Notes,
		},
		before: map[string]map[string]traffic.Weight{},
	}
}

// Apply takes a new definition: the files read again, or the text of the
// request. One that is bad changes nothing.
func (d *Daemon) Apply(ctx context.Context, who control.Actor, request api.ApplyRequest) (api.Apply, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	answer, err := d.reload(ctx, who, request)
	d.reloads.Store(&metrics.Reload{At: d.now(), OK: err == nil})
	return answer, err
}

func (d *Daemon) reload(ctx context.Context, who control.Actor, request api.ApplyRequest) (api.Apply, error) {
	definition, differsFrom, notes, err := d.newDefinition(request)
	if err != nil {
		return api.Apply{}, err
	}
	now := d.now()
	known, err := d.knownRecords()
	if err != nil {
		d.log.Error("read store", "error", err)
	}
	p := newProposal(definition)
	for _, split := range definition.Splits {
		prior := state.Record{Name: split.Name}
		record, ok := lookup(known, split.Name)
		if ok {
			prior = *record
		}
		s := settle(split, record, nil, now)
		if s.action != "" {
			s.record = d.begin(ctx, s.record)
		}
		entry := d.entry(who, s.action, prior, s.record, request.Reason, now)
		p.add(s, entry, prior)
	}
	d.remove(&p, known, definition, who, request.Reason, now)
	modes, autoNotes := d.resolved(definition.Splits)
	p.next.modes, p.next.differsFrom = modes, differsFrom
	hostWarnings, err := d.planes.preflight(p.next.splits(), p.next.paths)
	if err != nil {
		return api.Apply{}, err
	}
	p.next.warnings = autoNotes
	p.next.tell(hostWarnings)
	p.next.running = state.Running{Name: request.Name, Text: request.Text}
	warnings, err := d.make(ctx, change{
		next: p.next, records: p.records, prior: p.prior, entries: p.entries, raises: p.raises, reach: reachAll,
		running: &p.next.running, priorRunning: &d.view.Load().running,
	})
	if err != nil {
		return api.Apply{}, err
	}
	d.wakeExpiry()
	return applied(p, append(append(notes, p.next.warnings...), warnings...)), nil
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
			PreviousPPM: int(p.entries[i].Before.Sum()), WeightPPM: int(weight),
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

// knownRecords are the records in force and, from the store, those of removed
// splits, whose generations live on.
func (d *Daemon) knownRecords() (map[string]state.Record, error) {
	stored, err := d.vault.records()
	known := map[string]state.Record{}
	for name, record := range stored {
		if record.Removed {
			known[name] = record
		}
	}
	maps.Copy(known, d.view.Load().records)
	return known, err
}

// withBaselines gives the records that have none the counters of now.
func (d *Daemon) withBaselines(ctx context.Context, v *view) *view {
	for _, name := range v.names() {
		record := v.records[name]
		if record.Baseline != nil {
			continue
		}
		split := v.split(name)
		flows, err := d.planes.flows(ctx, split)
		if err != nil {
			d.log.Warn("read flow counters", "split", name, "error", err)
			continue
		}
		record.Baseline = flows
		v = v.with(record)
	}
	return v
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
