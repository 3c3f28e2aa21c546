package splitter

import (
	"cmp"
	"maps"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// leftMost is how many splits, and how many backends, are remembered that are served no
// more: the newest, so that numbers go on where a definition comes back. Names that
// come and go without end would else take memory without end.
const leftMost = 1024

// left says when a name was left: at which change. 0: it is served.
type left struct{ at uint64 }

func (l *left) leaving() *left { return l }

// named is what is remembered of a name.
type named interface {
	leaving() *left
	idle() bool // no flow is counted by it
}

// forget takes from what is remembered of names what is too much. It is called at
// each change; r.mu is held.
func (r *Relay) forget() {
	r.changes++
	maps.DeleteFunc(r.groups, func(key traffic.BackendKey, _ groups) bool { return !r.isCandidate(key) })
	forget(r.counters, r.changes, r.serves)
	forget(r.gates, r.changes, func(split string) bool { return r.splits[split].Name != "" || r.inlets[split] != nil })
}

// forgetCircuits takes out those of addresses that no front leads to any more. It is
// called where some may have gone; r.mu is held.
func (r *Relay) forgetCircuits() {
	used := make(map[*circuit]bool, len(r.circuits))
	for _, f := range r.fronts {
		if f.goes {
			continue
		}
		for _, candidate := range f.choice.Load().candidates {
			for i := range candidate.targets {
				used[candidate.targets[i].circuit] = true
			}
		}
	}
	maps.DeleteFunc(r.circuits, func(_ circuitKey, c *circuit) bool { return !used[c] })
}

// forget takes those out that were left before leftMost others, unless they have flows.
func forget[K comparable, V named](all map[K]V, now uint64, serves func(K) bool) {
	type gone struct {
		name K
		left uint64
	}
	var idle []gone
	for name, of := range all {
		l := of.leaving()
		if serves(name) {
			l.at = 0
			continue
		}
		l.at = cmp.Or(l.at, now)
		if of.idle() {
			idle = append(idle, gone{name, l.at})
		}
	}
	if len(idle) <= leftMost {
		return
	}
	slices.SortFunc(idle, func(a, b gone) int { return cmp.Compare(a.left, b.left) })
	for _, g := range idle[:len(idle)-leftMost] {
		delete(all, g.name)
	}
}
