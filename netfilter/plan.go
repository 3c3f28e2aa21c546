package netfilter

import (
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// A plan brings the table from what is observed to what is wanted. Operations
// of one group stay in one transaction.
type plan struct {
	// rebuild: the table is of a shape that cannot be mended; it goes away
	// before anything is prepared.
	rebuild bool
	// prepare makes what no packet reaches yet, door opens it: rules that are
	// replaced in one step, services that are added and removed.
	prepare, door [][]operation
	// leftovers are no longer reached once the door has opened. They go away
	// later, when no packet can be inside any more.
	leftovers []leftover
}

// A leftover is a chain or a counter that nothing leads to any more.
type leftover struct {
	counter bool
	name    string
}

func (p plan) empty() bool { return !p.rebuild && len(p.prepare) == 0 && len(p.door) == 0 }

// makePlan is pure. It also returns the ruleset that the plan leads to, which
// has the versions that the kernel is to have. No version at or below the
// floor of its split is made anew.
func makePlan(have observed, splits []traffic.Split, settings Settings, stateDir string, floor map[string]int) (plan, Ruleset) {
	if len(splits) == 0 && !have.exists {
		return plan{}, Ruleset{}
	}
	want := build(splits, settings, chooseVersions(have, splits, floor)).WithStateDir(stateDir)
	p := plan{}
	if have.exists && have.broken(want) {
		p.rebuild = true
		have = observed{}
	}
	p.tables(have, want)
	p.chains(have, want)
	p.services(have, want)
	if _, ok := have.chains[entranceChain]; !ok {
		p.door = append(p.door, []operation{addChain{table: TableSplits, chain: want.chain(entranceChain)}})
	}
	p.foreign(have, want)
	return p, want
}

func (r Ruleset) chain(name string) chain {
	i := slices.IndexFunc(r.chains, func(c chain) bool { return c.name == name })
	return r.chains[i]
}

// chooseVersions keeps the version of a split that has its weights already and
// counts on otherwise.
func chooseVersions(have observed, splits []traffic.Split, floor map[string]int) map[string]int {
	newest := map[string]int{}
	for name := range have.chains {
		if split, version, ok := versionOf(name); ok {
			newest[split] = max(newest[split], version)
		}
	}
	versions := map[string]int{}
	for _, s := range splits {
		versions[s.Name] = max(newest[s.Name], floor[s.Name]) + 1
		current, ok := have.currentVersion(s.Name)
		if ok && sameRules(have.chains[versionChain(s.Name, current)].rules, drawRules(s, current).rules) {
			versions[s.Name] = current
		}
	}
	return versions
}

// versionOf reads the name of a version's chain.
func versionOf(chain string) (split string, version int, ok bool) {
	split, kind, rest := nameOf(chain)
	number, ok := strings.CutPrefix(kind, "v")
	if !ok || rest != "" {
		return "", 0, false
	}
	version, err := strconv.Atoi(number)
	return split, version, err == nil
}

// currentVersion is the version that the trampoline of the split leads to.
func (o observed) currentVersion(split string) (int, bool) {
	for _, r := range o.chains[trampolineChain(split)].rules {
		if owner, version, ok := versionOf(r.target); ok && owner == split {
			return version, true
		}
	}
	return 0, false
}

func sameRules(have []observedRule, want []rule) bool {
	return slices.EqualFunc(have, want, func(h observedRule, w rule) bool { return h.identity == w.identity() })
}

// broken says that the table cannot become the wanted one: it is dormant, or a
// map or a chain of ours is of another type.
func (o observed) broken(want Ruleset) bool {
	if o.dormant {
		return true
	}
	for _, right := range o.maps {
		if !right {
			return true
		}
	}
	return slices.ContainsFunc(want.chains, func(w chain) bool {
		have, ok := o.chains[w.name]
		return ok && !have.hookedLike(w)
	})
}

func (c observedChain) hookedLike(w chain) bool {
	if c.odd || (c.hook == nil) != (w.hook == nil) {
		return false
	}
	return w.hook == nil || *c.hook == *w.hook
}

func (p *plan) tables(have observed, want Ruleset) {
	prepare := func(o operation) { p.prepare = append(p.prepare, []operation{o}) }
	if !have.exists {
		prepare(addTable{name: TableSplits})
	}
	wanted := map[string]bool{}
	for _, name := range want.counters {
		wanted[name] = true
		if _, ok := have.counters[name]; !ok {
			prepare(addCounter{name: name})
		}
	}
	for name := range have.counters {
		if !wanted[name] {
			p.leftovers = append(p.leftovers, leftover{counter: true, name: name})
		}
	}
	for _, m := range []serviceMap{services4, services6} {
		if _, ok := have.maps[m]; !ok {
			prepare(addMap{name: m})
		}
	}
}

// chains makes the missing chains and mends those that differ. What belongs to
// one split changes in one transaction.
func (p *plan) chains(have observed, want Ruleset) {
	mends := map[string][]operation{}
	var order []string
	for _, w := range want.chains {
		h, ok := have.chains[w.name]
		if !ok {
			if w.name != entranceChain {
				p.prepare = append(p.prepare, []operation{addChain{table: TableSplits, chain: w}})
			}
			continue
		}
		split, _, _ := nameOf(w.name)
		if mend := mendChain(h, w); len(mend) > 0 {
			if len(mends[split]) == 0 {
				order = append(order, split)
			}
			mends[split] = append(mends[split], mend...)
		}
	}
	for _, split := range order {
		p.door = append(p.door, mends[split])
	}
}

// mendChain takes foreign rules out of a chain, or gives it new ones in one
// step. No chain that comes here owns a set: versions never change.
func mendChain(have observedChain, want chain) []operation {
	if sameRules(have.rules, want.rules) {
		return nil
	}
	if len(have.rules) == 1 && len(want.rules) == 1 {
		return []operation{replaceRule{chain: want.name, handle: have.rules[0].handle, rule: want.rules[0]}}
	}
	extra, missing := compareRuleLists(have.rules, want.rules)
	if len(missing) > 0 {
		return []operation{replaceRules{chain: want}}
	}
	var mend []operation
	for _, r := range extra {
		mend = append(mend, removeRule{chain: want.name, handle: r.handle})
	}
	return mend
}

// compareRuleLists walks both lists: extra rules of the kernel stand between
// the wanted ones, missing are wanted rules that do not follow in order.
func compareRuleLists(have []observedRule, want []rule) (extra []observedRule, missing []rule) {
	next := 0
	for _, w := range want {
		i := slices.IndexFunc(have[next:], func(h observedRule) bool { return h.identity == w.identity() })
		if i < 0 {
			missing = append(missing, w)
			continue
		}
		extra = append(extra, have[next:next+i]...)
		next += i + 1
	}
	return append(extra, have[next:]...), missing
}

// services adds and removes elements of the maps. One that moves to another
// split is removed and added in one transaction.
func (p *plan) services(have observed, want Ruleset) {
	wanted := map[service]bool{}
	for _, e := range want.elements {
		wanted[e.service] = true
		target, ok := have.elements[e.service]
		switch {
		case !ok:
			p.door = append(p.door, []operation{addElement{element: e}})
		case target != e.chain:
			p.door = append(p.door, []operation{
				removeElement{set: string(e.service.in()), key: e.service.key()}, addElement{element: e},
			})
		}
	}
	for s := range have.elements {
		if !wanted[s] {
			p.door = append(p.door, []operation{removeElement{set: string(s.in()), key: s.key()}})
		}
	}
	for _, e := range have.foreign {
		p.door = append(p.door, []operation{e})
	}
}

// foreign sorts what nothing wants: chains of ours become leftovers, what
// another program put into our table goes at once.
func (p *plan) foreign(have observed, want Ruleset) {
	wanted := map[string]bool{}
	for _, c := range want.chains {
		wanted[c.name] = true
	}
	var flush, remove []operation
	for _, name := range have.chainNames() {
		switch {
		case wanted[name]:
		case ours(name):
			p.leftovers = append(p.leftovers, leftover{name: name})
		default:
			flush = append(flush, flushChain{name: name})
			remove = append(remove, removeChain{name: name})
		}
	}
	for _, name := range have.sets {
		remove = append(remove, removeSet{name: name})
	}
	if len(remove) > 0 {
		p.door = append(p.door, append(flush, remove...))
	}
}

func ours(chain string) bool {
	return strings.HasPrefix(chain, splitPrefix) || chain == exitChain
}

// transactions packs groups, in their order, into as few transactions as the
// bytes that one may have allow.
func transactions(groups [][]operation, most int) [][]operation {
	var all [][]operation
	room := 0
	for _, g := range groups {
		need := 0
		for _, o := range g {
			need += o.size()
		}
		if len(all) == 0 || need > room {
			all = append(all, nil)
			room = most
		}
		all[len(all)-1] = append(all[len(all)-1], g...)
		room -= need
	}
	return all
}
