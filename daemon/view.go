package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// view is one immutable state of everything that readers ask for. Changes make
// a new one; readers never wait for a change.
type view struct {
	records     roster                  // the splits there are
	graves      map[string]state.Record // those there were, for their generations
	modes       map[string]traffic.Mode // the plane in use, with auto resolved
	made        *configs.Definition     // what it was made of, the same until the next apply
	paths       []traffic.ReturnPath
	places      map[string]configs.Place
	notes       []string
	auto        []string      // which mode auto became, and why
	running     state.Running // the text of the last `apply -f`, if it is in force
	differsFrom string        // after `apply -f`: the files that say otherwise
}

// split returns the state of one of the splits as its data plane gets it.
func (v *view) split(name string) traffic.Split {
	split := v.records.split(name)
	split.Mode = v.modes[name]
	return split
}

// names lists the splits in order.
func (v *view) names() []string { return v.records.names }

// splits lists the states of all splits, in order of their names.
func (v *view) splits() []traffic.Split {
	splits := make([]traffic.Split, 0, len(v.records.names))
	for _, name := range v.names() {
		splits = append(splits, v.split(name))
	}
	return splits
}

// of lists the states of those of the records whose split there is.
func (v *view) of(records []state.Record) []traffic.Split {
	splits := make([]traffic.Split, 0, len(records))
	for _, r := range records {
		if v.records.has(r.Name) {
			splits = append(splits, v.split(r.Name))
		}
	}
	return splits
}

// summaryMost is how many splits a summary names.
const summaryMost = 20

// summary is one line of the splits and their candidates' share.
func (v *view) summary() string {
	names := v.names()
	var parts []string
	for _, name := range names[:min(len(names), summaryMost)] {
		parts = append(parts, fmt.Sprintf("%s %s", name, v.split(name).CandidateWeight()))
	}
	if left := len(names) - summaryMost; left > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", left))
	}
	return strings.Join(parts, ", ")
}

// sorted tells what needs an operator from what belongs to the plan ("note:
// ...") in the findings of the host check.
func sorted(findings []string) (warnings, notes []string) {
	for _, f := range findings {
		if note, ok := strings.CutPrefix(f, "note: "); ok {
			notes = append(notes, note)
			continue
		}
		warnings = append(warnings, f)
	}
	return warnings, notes
}

// with returns a view in which some records are replaced.
func (v *view) with(records ...state.Record) *view {
	next := *v
	next.records = v.records.with(records...)
	return &next
}

// since lists the splits whose state differs from the earlier view's, unless
// more than that differs.
func (v *view) since(earlier *view) (changed []traffic.Split, ok bool) {
	if earlier == nil || earlier.made != v.made || !slices.Equal(earlier.names(), v.names()) {
		return nil, false
	}
	for i, h := range v.records.held {
		if h != earlier.records.held[i] {
			changed = append(changed, v.split(h.record.Name))
		}
	}
	return changed, true
}

// buried returns a view in which a split is no longer there.
func (v *view) buried(record state.Record) *view {
	next := *v
	next.records, next.graves = v.records.without(record.Name), maps.Clone(v.graves)
	if next.graves == nil {
		next.graves = map[string]state.Record{}
	}
	next.graves[record.Name] = record
	return &next
}

// known is the record of a split, also of one that was removed.
func (v *view) known(name string) *state.Record {
	if record, ok := v.records.find(name); ok {
		return &record
	}
	if record, ok := v.graves[name]; ok {
		return &record
	}
	return nil
}

// choice says which splits there are to be named.
func (v *view) choice() string {
	names := v.names()
	if len(names) == 0 {
		return "there are no splits: write one into the configuration and run `splitctl apply`"
	}
	if len(names) == 1 {
		return "the only split is " + quoted(names)
	}
	return "the splits are " + quoted(names)
}

// quoted lists names for people: `"mx", "web"`.
func quoted(names []string) string {
	parts := make([]string, 0, len(names))
	for _, n := range names {
		parts = append(parts, `"`+n+`"`)
	}
	return strings.Join(parts, ", ")
}

// expect returns the record of the named split, or of the only one when name
// is "", and refuses when it is not at the generation that the caller last saw.
func (v *view) expect(name string, generation *uint64) (state.Record, error) {
	record, err := v.find(name)
	if err != nil {
		return state.Record{}, err
	}
	if generation != nil && *generation != uint64(record.Generation) {
		return state.Record{}, refuse(api.CodeConflict, "change %q: it is at generation %d, not %d: look at `splitctl history %s` and try again",
			record.Name, record.Generation, *generation, record.Name)
	}
	return record, nil
}

// find returns the record of the named split, or of the only one when name is
// "".
func (v *view) find(name string) (state.Record, error) {
	names := v.names()
	if name == "" {
		if len(names) != 1 {
			return state.Record{}, refuse(api.CodeInvalid, "name a split: %s", v.choice())
		}
		name = names[0]
	}
	record, ok := v.records.find(name)
	if !ok {
		return state.Record{}, refuse(api.CodeNotFound, "find split %q: there is none of that name: %s", name, v.choice())
	}
	return record, nil
}
