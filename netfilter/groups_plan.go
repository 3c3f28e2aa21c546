package netfilter

import (
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// groups makes the sets of groups and brings their networks to the wanted
// ones. No rule changes for that. A set that nothing looks at any more goes
// later.
func (t tablePlan) groups() {
	wanted, looked := map[string]bool{}, t.want.lookedAt()
	for _, g := range t.want.groups {
		sets := g.sets()
		for _, set := range sets {
			wanted[set] = true
			if _, stands := t.have.groups[set]; !stands {
				t.in(prepare, addGroup{set: set})
			}
		}
		c := regroup([2]map[network]bool{t.have.groups[sets[0]], t.have.groups[sets[1]]}, g.networks)
		at := t.when(g, looked[g.name])
		t.change(at[0], sets, c.prepare)
		t.change(at[1], sets, c.grow)
		t.change(at[2], sets, c.shrink)
	}
	for _, name := range slices.Sorted(maps.Keys(t.have.groups)) {
		if !wanted[name] {
			t.left(leftGroup, name)
		}
	}
}

// change puts changes of two sets into a phase, so many networks at a time.
func (t tablePlan) change(at phase, sets [2]string, changes [2]setChange) {
	for i, c := range changes {
		if split, _, _ := nameOf(sets[i]); at != prepare && len(c.remove)+len(c.add) > 0 {
			t.changing[split] = true
		}
		for some := range slices.Chunk(c.remove, networksMost) {
			t.in(at, removeNetworks{group: sets[i], networks: some})
		}
		for some := range slices.Chunk(c.add, networksMost) {
			t.in(at, addNetworks{group: sets[i], networks: some})
		}
	}
}

// when are the phases in which the networks of a group are copied, come and go.
// While its rules are not in force, because the candidate is closed or the split
// draws for nobody, a change of it must not wait for the door behind which they
// are, nor be seen before the one behind which they are no longer.
func (t tablePlan) when(g group, looked bool) [3]phase {
	grow, shrink := growAlways, shrinkAlways
	if g.kind() == groupNever {
		grow, shrink = growNever, shrinkNever
		if t.have.inBoth(g) {
			shrink = shrinkNeverLast
		}
	}
	switch {
	case !t.have.looksAt(g):
		return [3]phase{prepare, prepare, prepare}
	case !looked:
		return [3]phase{shrink, shrink, shrink}
	}
	return [3]phase{prepare, grow, shrink}
}

// kind is groupAlways or groupNever.
func (g group) kind() string {
	return strings.TrimRight(g.name[strings.LastIndexByte(g.name, '/')+1:], "46")
}

// looksAt says whether the rules that are in force look at the group.
func (o observed) looksAt(g group) bool {
	split, candidate := candidateOfGroup(g.name)
	looker := backendChain(split, traffic.RoleCandidate, candidate)
	if g.kind() == groupAlways {
		version, draws := o.currentVersion(split)
		if !draws {
			return false
		}
		looker = versionChain(split, version)
	}
	lookup := " " + g.sets()[0] + ";"
	return slices.ContainsFunc(o.chains[looker].rules, func(r observedRule) bool { return strings.Contains(r.identity, lookup) })
}

// inBoth says whether a network of a group that never goes to a candidate
// overlaps one of the group that always does.
func (o observed) inBoth(never group) bool {
	split, candidate := candidateOfGroup(never.name)
	always := group{name: groupName(split, candidate, groupAlways, groupIs6(never.name))}
	if len(o.networks(always)) == 0 || len(o.networks(never)) == 0 {
		return false
	}
	ordered := inOrder(o.networks(always))
	for n := range o.networks(never) {
		if len(overlapping(ordered, n)) > 0 {
			return true
		}
	}
	return false
}

// lookedAt are the sets that rules of the table look at.
func (t table) lookedAt() map[string]bool {
	looked := map[string]bool{}
	if len(t.groups) == 0 {
		return looked
	}
	for _, c := range t.chains {
		for _, r := range c.rules {
			for _, s := range r.statements {
				if m, ok := s.(member); ok {
					looked[m.set] = true
				}
			}
		}
	}
	return looked
}
