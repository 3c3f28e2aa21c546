package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// view is one immutable state of everything that readers ask for. Changes make
// a new one; readers never wait for a change.
type view struct {
	records     map[string]state.Record // the splits there are
	modes       map[string]traffic.Mode // the plane in use, with auto resolved
	paths       []traffic.ReturnPath
	places      map[string]configs.Place
	notes       []string
	warnings    []string      // about host and planes, from the last apply
	running     state.Running // the text of the last `apply -f`, if it is in force
	differsFrom string        // after `apply -f`: the files that say otherwise
}

// split returns the state of one of the splits as its data plane gets it.
func (v *view) split(name string) traffic.Split {
	split := inForce(v.records[name])
	split.Mode = v.modes[name]
	return split
}

// names lists the splits in order.
func (v *view) names() []string { return slices.Sorted(maps.Keys(v.records)) }

// splits lists the states of all splits, in order of their names.
func (v *view) splits() []traffic.Split {
	splits := make([]traffic.Split, 0, len(v.records))
	for _, name := range v.names() {
		splits = append(splits, v.split(name))
	}
	return splits
}

// summary is one line of all splits and their candidates' share.
func (v *view) summary() string {
	parts := make([]string, 0, len(v.records))
	for _, name := range v.names() {
		parts = append(parts, fmt.Sprintf("%s %s", name, inForce(v.records[name]).CandidateWeight()))
	}
	return strings.Join(parts, ", ")
}

// tell sorts what the host check said: what needs an operator is a warning,
// the rest ("note: ...") belongs to the plan. For a view nobody reads yet.
func (v *view) tell(findings []string) {
	for _, f := range findings {
		if note, ok := strings.CutPrefix(f, "note: "); ok {
			v.notes = append(slices.Clip(v.notes), note)
			continue
		}
		v.warnings = append(v.warnings, f)
	}
}

// with returns a view in which some records are replaced.
func (v *view) with(records ...state.Record) *view {
	next := *v
	next.records = maps.Clone(v.records)
	for _, r := range records {
		next.records[r.Name] = r
	}
	return &next
}

// quoted lists names for people: `"mx", "web"`.
func quoted(names []string) string {
	parts := make([]string, 0, len(names))
	for _, n := range names {
		parts = append(parts, `"`+n+`"`)
	}
	return strings.Join(parts, ", ")
}
