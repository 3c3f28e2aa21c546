package daemon

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// proposal is a new view with the records and entries that lead to it.
type proposal struct {
	next    *view
	all     []state.Record // of the splits there will be, see gathered
	records []state.Record // those that change, removed ones among them
	entries []state.Entry
	before  map[string]holdings // by split, as far as known
	raises  bool
	cut     []string // splits whose groups are held down
	closed  []string // splits of which nobody knows what was in force
	parting []string // what becomes of the overrides of splits that go
	ended   []string // samples that end with the protocol of which they were said
}

func newProposal(definition configs.Definition) proposal {
	return proposal{
		next: &view{
			graves: map[string]state.Record{}, made: &definition, paths: definition.ReturnPaths,
			places: definition.Places, notes: definition.Notes,
		},
		before: map[string]holdings{},
	}
}

// add adds one settled split.
func (p *proposal) add(s settled, entry state.Entry) {
	p.all = append(p.all, s.record)
	p.before[s.record.Name] = s.before
	if s.ended != "" {
		p.ended = append(p.ended, s.ended)
	}
	if s.action == "" {
		return
	}
	p.records = append(p.records, s.record)
	p.entries = append(p.entries, entry)
	p.raises = p.raises || s.before.raisedBy(inForce(s.record))
}

// gathered is the proposal when every split has been added and removed.
func (p proposal) gathered() proposal {
	p.next.records = newRoster(p.all...)
	return p
}

// remove marks the records whose split the definition no longer has.
func (d *Daemon) remove(p *proposal, known map[string]state.Record, definition configs.Definition, who control.Actor, reason string, now time.Time) {
	defined := make(map[string]bool, len(definition.Splits))
	for _, s := range definition.Splits {
		defined[s.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		record, has := known[name], defined[name]
		if record.Removed && !has {
			p.next.graves[name] = record
		}
		if record.Removed || has {
			continue
		}
		p.parting = append(p.parting, parting(record)...)
		grave := gone(record, now)
		grave.Generation = max(grave.Generation, d.reserved[name]+1)
		p.next.graves[name] = grave
		p.records = append(p.records, grave)
		p.entries = append(p.entries, d.entry(who, state.ActionRemove, record, grave, reason, now))
	}
}

// noneLeft warns of an apply that removes all splits: the text may have been
// emptied by accident.
func (p proposal) noneLeft(sources string) []string {
	if len(p.next.names()) > 0 || !slices.ContainsFunc(p.records, func(r state.Record) bool { return r.Removed }) {
		return nil
	}
	return []string{fmt.Sprintf("no split is left by %s: nobody listens any more for those that the relay served: put them back there and apply again", sources)}
}

// parting says what becomes of the overrides of a split that is removed.
func parting(record state.Record) (notes []string) {
	kept, dropped := outlasting(record.Overrides)
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		if name == traffic.SampleKey {
			notes = append(notes, fmt.Sprintf("split %q: its sample stays at 0%% by %s, should the split come back", record.Name, kept[name].Actor))
			continue
		}
		notes = append(notes, fmt.Sprintf("split %q: %q stays closed by %s, should the split come back", record.Name, name, kept[name].Actor))
	}
	for _, name := range slices.Sorted(maps.Keys(dropped)) {
		if name == traffic.SampleKey {
			notes = append(notes, fmt.Sprintf("split %q: its sample of %s that %s set is forgotten: should the split come back, the file's sample is in force",
				record.Name, dropped[name].Weight, dropped[name].Actor))
			continue
		}
		notes = append(notes, fmt.Sprintf("split %q: the %s that %s set for %q are forgotten: should the split come back, the file's weight is in force",
			record.Name, dropped[name].Weight, dropped[name].Actor, name))
	}
	return notes
}

// heldDown is the proposal with every raise taken out of it; what is told of it
// tells no raise either.
func (p proposal) heldDown(now time.Time) proposal {
	var held []state.Record
	for _, name := range p.next.names() {
		was := p.next.records.get(name)
		record := holdDown(was, p.before[name], now)
		if !sameGroups(record.Definition, was.Definition) {
			p.cut = append(p.cut, name)
		}
		held = append(held, record)
	}
	p.next = p.next.with(held...)
	for i, e := range p.entries {
		if record, stands := p.next.records.find(e.Split); stands {
			p.entries[i].After = side(record)
		}
	}
	return p
}

// overruled says where the file's weight or sample is not the one in force, and why.
func (p proposal) overruled() []string {
	var notes []string
	for _, name := range p.next.names() {
		record := p.next.records.get(name)
		split := inForce(record)
		if o, ok := record.Overrides[traffic.SampleKey]; ok && record.Definition.Sample != split.Sample {
			notes = append(notes, fmt.Sprintf("split %q: the file's sample of %s is not in force: %s set %s; `splitctl shadow %s default` takes the file's",
				name, record.Definition.Sample, o.Actor, split.Sample, name))
		}
		for _, c := range split.Candidates {
			file, _ := record.Definition.Candidate(c.Name)
			o, ok := record.Overrides[c.Name]
			switch {
			case ok && file.Weight != c.Weight:
				notes = append(notes, fmt.Sprintf("split %q: the file's %s for %q is not in force: %s set %s; `splitctl set %s default` takes the file's",
					name, file.Weight, c.Name, o.Actor, c.Weight, name))
			case ok && c.Closed && len(file.Clients.Always) > 0:
				notes = append(notes, fmt.Sprintf("split %q: the file's clients.always of %q are not in force: %s closed it; `splitctl set %s default` takes the file's",
					name, c.Name, o.Actor, name))
			}
		}
	}
	return notes
}

// applied is what an apply answers.
func applied(p proposal, warnings []string) api.Apply {
	answer := api.Apply{Envelope: api.Of(api.KindApply), Changed: len(p.records) > 0, Items: []api.Change{}, Warnings: warnings}
	for i, record := range p.records {
		split := inForce(record)
		weight, sample := split.CandidateWeight(), split.Sample
		if record.Removed {
			weight, sample = 0, 0
		}
		answer.Items = append(answer.Items, api.Change{
			Envelope: api.Of(api.KindChange), Split: record.Name, Changed: true, Generation: uint64(record.Generation),
			PreviousPPM: int(p.entries[i].Before.Sum()), WeightPPM: int(weight), Removed: record.Removed,
			PreviousSamplePPM: int(p.entries[i].Before.Sample), SamplePPM: int(sample),
		})
	}
	return answer
}
