package daemon

import (
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// A roster is the records of the splits there are, in order of their names, and
// the splits as they are in force. It is immutable. A change of a few makes a
// new one that shares the others, so that it costs little among ten thousand.
type roster struct {
	names []string
	at    map[string]int // of names, and of held
	held  []*held
}

// held is one split; its mode is the view's to say.
type held struct {
	record state.Record
	split  traffic.Split
}

// newRoster takes each split once.
func newRoster(records ...state.Record) roster {
	r := roster{at: make(map[string]int, len(records)), held: make([]*held, 0, len(records))}
	for _, record := range records {
		r.held = append(r.held, &held{record, inForce(record)})
	}
	return r.sorted()
}

// sorted is the roster of what is held.
func (r roster) sorted() roster {
	slices.SortFunc(r.held, func(a, b *held) int { return strings.Compare(a.record.Name, b.record.Name) })
	r.names = make([]string, len(r.held))
	for i, h := range r.held {
		r.names[i], r.at[h.record.Name] = h.record.Name, i
	}
	return r
}

// find returns the record of a split.
func (r roster) find(name string) (state.Record, bool) {
	i, ok := r.at[name]
	if !ok {
		return state.Record{}, false
	}
	return r.held[i].record, true
}

// get is find for who knows that there is one.
func (r roster) get(name string) state.Record {
	record, _ := r.find(name)
	return record
}

func (r roster) has(name string) bool {
	_, ok := r.at[name]
	return ok
}

// split is the split as it is in force.
func (r roster) split(name string) traffic.Split {
	if i, ok := r.at[name]; ok {
		return r.held[i].split
	}
	return traffic.Split{}
}

// with is the roster in which some records are replaced, or new.
func (r roster) with(records ...state.Record) roster {
	next := roster{names: r.names, at: r.at, held: slices.Clone(r.held)}
	known := len(next.held)
	var added map[string]int
	for _, record := range records {
		h := &held{record, inForce(record)}
		i, ok := r.at[record.Name]
		if !ok {
			i, ok = added[record.Name]
		}
		if ok {
			next.held[i] = h
			continue
		}
		if added == nil {
			added = map[string]int{}
		}
		added[record.Name] = len(next.held)
		next.held = append(next.held, h)
	}
	if len(next.held) == known {
		return next
	}
	next.at = maps.Clone(r.at)
	if next.at == nil {
		next.at = map[string]int{}
	}
	return next.sorted()
}

// without is the roster without one split.
func (r roster) without(name string) roster {
	i, ok := r.at[name]
	if !ok {
		return r
	}
	next := roster{at: make(map[string]int, len(r.held)), held: slices.Delete(slices.Clone(r.held), i, i+1)}
	return next.sorted()
}
