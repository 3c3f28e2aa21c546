package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// begins brings the planes to the configuration for the first time: it settles
// every split between files, store and kernel, looks at the host, and applies
// the outcome.
func (d *Daemon) begins(ctx context.Context) error {
	before := d.before() // first: it may end while the store is waited for
	known, storeErr := d.scribe.records(ctx)
	if err := d.mustBeTheOnlyOne(storeErr, cmp.Or(d.before(), before)); err != nil {
		return err
	}
	if err := d.mayBeAlone(known); err != nil {
		return err
	}
	definition, running, differsFrom := d.runningDefinition(ctx)
	d.tellOfFiles(&definition)
	modes, notes := d.resolved(definition.Splits)
	inKernel, err := d.kernelState(ctx, definition, modes, known)
	if err != nil {
		return err
	}
	forced, err := state.TakeForced(d.options.Config.StateDir)
	if err != nil {
		d.log.Error("read marker of a forced off", "error", err)
	}
	p := d.settleAll(definition, known, d.outside(inKernel, len(known) == 0), forced)
	p.next.modes, p.next.running, p.next.differsFrom, p.next.auto = modes, running, differsFrom, notes
	d.foundBefore(p.next.splits(), inKernel)
	findings, err := d.planes.preflight(p.next.splits(), p.next.paths)
	if err != nil {
		return err
	}
	_, remarks := sorted(findings)
	d.tellOfHost(slices.Concat(notes, findings))
	if len(known) == 0 { // the first start: later on `splitctl plan` has them
		for _, n := range remarks {
			d.log.Info("host", "note", n)
		}
	}
	if len(p.closed) > 0 {
		d.log.Warn("splits start closed: without the store nobody knows what was in force; `splitctl set SPLIT WEIGHT` opens one, `splitctl set SPLIT default` takes the file's weight", "splits", someOf(p.closed))
	}
	// Before anything is recorded: a start that fails shall leave no generation.
	if _, inProxy := byMode(p.next.splits()); len(inProxy) > 0 {
		if err := d.planes.relay.MayListen(inProxy); err != nil {
			return fmt.Errorf("apply configuration: %w", err)
		}
	}
	d.warnOfRemoved(p)
	if storeErr != nil {
		d.scribe.lost.Store(&fault{storeErr})
	} else if len(p.records) > 0 {
		p.entries, storeErr = d.recordStart(ctx, &p)
	}
	if storeErr != nil {
		d.log.Error("weights can only be lowered until the store can be written", "error", storeErr)
		d.tellOfBefore()
		p = p.heldDown(d.now())
		for _, name := range p.cut {
			d.log.Warn("clients that would newly go to a candidate by its groups stay with the primary: apply again when the store can be written", "split", name)
		}
	}
	d.loadReports(ctx, p.next)
	return d.firstApply(ctx, p, storeErr == nil)
}

// warnOfRemoved names the splits that an earlier run had and this one has not, and
// the samples that have ended with a protocol: it may have been started with other files.
func (d *Daemon) warnOfRemoved(p proposal) {
	for _, e := range p.entries {
		if e.Action == state.ActionRemove {
			d.log.Warn("split is removed: an earlier run in this state directory had it, and the configuration of this one has not",
				"split", e.Split, "weight", e.Before.Sum().String(), "configuration", d.options.Sources, "state_dir", d.options.Config.StateDir)
		}
	}
	for _, note := range p.parting {
		d.log.Warn("split is removed", "note", note)
	}
	for _, note := range p.ended {
		d.log.Warn("sample ends", "note", note)
	}
}

// recordStart records what the start has settled, with the counters of now.
func (d *Daemon) recordStart(ctx context.Context, p *proposal) ([]state.Entry, error) {
	c := change{next: p.next, records: p.records}
	d.begun(ctx, &c)
	p.next, p.records = c.next, c.records
	return ask(ctx, d.scribe, func(store Store) ([]state.Entry, error) { return write(store, nil, c.records, p.entries) })
}

// firstApply puts the settled state into the planes.
func (d *Daemon) firstApply(ctx context.Context, p proposal, recorded bool) error {
	d.shadows.follow(p.next) // before the first flow comes
	if err := d.planes.apply(ctx, p.next.splits(), nil, p.next.paths); err != nil {
		return fmt.Errorf("apply configuration: %w", errors.Join(err, d.planes.abandon()))
	}
	d.see(d.withBaselines(ctx, p.next))
	d.retarget()
	d.reloads.Store(&reloaded{Reload: metrics.Reload{At: d.now(), OK: true}})
	d.warnOf(d.publish(p.entries, false).wait(ctx, raisePatience))
	d.scribe.submit(func() error { return d.tidyMarkers(recorded) })
	return nil
}

// tidyMarkers forgets a forced off that is recorded now, and keeps room for the
// next one; on the scribe's goroutine.
func (d *Daemon) tidyMarkers(recorded bool) error {
	dir := d.options.Config.StateDir
	if recorded {
		if err := state.ForgetForced(dir); err != nil {
			d.log.Warn("forget marker of a forced off", "error", err)
		}
	}
	if err := state.PrepareSpare(dir); err != nil {
		d.log.Warn("prepare for a full disk", "error", err)
	}
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
	sent, err := d.options.Config.ParseSent(running.Name, []byte(running.Text))
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
	ours := ofKernel(byMode(resolvedSplits(definition.Splits, modes)))
	needed := len(definition.ReturnPaths) > 0 || len(ours) > 0
	was := slices.ContainsFunc(slices.Collect(maps.Values(known)), func(r state.Record) bool {
		return !r.Removed && (r.Definition.Mode != traffic.ModeProxy || r.Definition.Transparent())
	})
	if !needed && !was && !d.leftInKernel(len(known) == 0) {
		return nil, nil
	}
	kernel, err := d.planes.needKernel()
	if err != nil {
		if !needed {
			return nil, nil
		}
		return nil, explainKernel(err, ours, definition.ReturnPaths)
	}
	states, err := kernel.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read kernel state: %w", err)
	}
	return states, nil
}

// leftInKernel says that an earlier run put something into the kernel of which
// the store has no record: return paths, or anything where it is bare.
func (d *Daemon) leftInKernel(bare bool) bool {
	snapshot, err := state.ReadSnapshot(d.snapshotPath())
	return err == nil && (len(snapshot.ReturnPaths) > 0 || bare && len(snapshot.Splits) > 0)
}

// settleAll settles every split of a definition and removes those that it no
// longer has.
func (d *Daemon) settleAll(definition configs.Definition, known map[string]state.Record, outside outside, forced []state.Forced) proposal {
	now := d.now()
	p := newProposal(definition)
	for _, split := range definition.Splits {
		record, ok := lookup(known, split.Name)
		s := settle(split, record, outside.of(split.Name), now)
		if !ok && outside.silent(split.Name) {
			s = closed(split, now)
			p.closed = append(p.closed, split.Name)
		}
		prior := state.Record{Name: split.Name}
		if ok {
			prior = *record
		}
		entry := d.entry(itself, s.action, prior, s.record, "", now)
		if !ok {
			entry.Before = s.before.side()
		}
		if f, off := firstSince(forced, split.Name, prior.UpdatedAt); off {
			s, entry = d.turnedOff(s, entry, f, now)
		}
		p.add(s, entry)
	}
	d.remove(&p, known, definition, itself, "", now)
	slices.SortStableFunc(p.entries, func(a, b state.Entry) int { return a.Time.Compare(b.Time) })
	return p.gathered()
}

// turnedOff carries out what a forced off asked for while no daemon could record
// it, in the name of who did it. The kernel may have it already.
func (d *Daemon) turnedOff(s settled, entry state.Entry, f state.Forced, now time.Time) (settled, state.Entry) {
	split := inForce(s.record)
	on := split.CandidateWeight() > 0 || split.Sample > 0
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

// firstSince returns the oldest forced off that covers the split and is not older
// than its record: the one that took it off, and not those that found it so.
func firstSince(forced []state.Forced, split string, recorded time.Time) (state.Forced, bool) {
	for _, f := range forced {
		if f.Covers(split) && !recorded.After(f.Time) {
			return f, true
		}
	}
	return state.Forced{}, false
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

// withBaselines gives the records a baseline that the counters can have grown
// from: those of now where there is none, or where the counters have begun
// again since (a reboot; the relay's begin with the process).
func (d *Daemon) withBaselines(ctx context.Context, v *view) *view {
	flows, err := d.planes.flows(ctx, v.splits())
	if err != nil {
		d.log.Warn("read flow counters", "error", err)
		return v
	}
	var begun []state.Record
	for _, name := range v.names() {
		record := v.records.get(name)
		if record.Baseline == nil || begunAgain(record.Baseline, flows[name]) {
			record.Baseline = flows[name]
			begun = append(begun, record)
		}
	}
	return v.with(begun...)
}

func begunAgain(baseline, flows map[string]uint64) bool {
	for name, count := range baseline {
		if flows[name] < count {
			return true
		}
	}
	return false
}

func lookup(records map[string]state.Record, name string) (*state.Record, bool) {
	record, ok := records[name]
	if !ok {
		return nil, false
	}
	return &record, true
}
