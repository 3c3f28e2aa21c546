package netfilter

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// A plan brings the tables from what is observed to what is wanted. Steps of
// one group stay in one transaction.
type plan struct {
	// rebuild are tables of a shape that cannot be mended; they go away before
	// anything is prepared.
	rebuild []string
	steps   [phases][][]step
	// leftovers are no longer reached then. They go away later, when no packet
	// can be inside any more.
	leftovers []leftover
}

// A leftover is a table, or something in one, that nothing leads to any more.
type leftover struct {
	kind  leftoverKind
	table string
	name  string // "" for a table
}

// The kinds of leftovers, in the order in which they can go: what leads
// somewhere before what it leads to.
type leftoverKind int

const (
	leftEntrance leftoverKind = iota
	leftTrampoline
	leftVersion
	leftBackend
	leftGroup
	leftTimeout
	leftCounter
	leftTable
)

func leftChain(table, name string) leftover {
	_, kind, rest := nameOf(name)
	l := leftover{kind: leftTrampoline, table: table, name: name}
	switch {
	case name == entranceLocalChain || name == chainClamp || name == chainDivert || name == chainDivertLocal:
		l.kind = leftEntrance
	case rest != "" || kind == kindSampled:
		l.kind = leftBackend
	case strings.HasPrefix(kind, "v"):
		l.kind = leftVersion
	}
	return l
}

func (l leftover) removal() []step {
	switch l.kind {
	case leftTable:
		return on(l.table, removeTable{})
	case leftCounter:
		return on(l.table, removeCounter{name: l.name})
	case leftTimeout:
		return on(l.table, removeTimeout{name: l.name})
	case leftGroup:
		return on(l.table, removeSet{name: l.name})
	case leftEntrance, leftTrampoline, leftVersion, leftBackend:
	}
	return on(l.table, removeChain{name: l.name})
}

func (p plan) empty() bool {
	return len(p.rebuild) == 0 && !slices.ContainsFunc(p.steps[:], func(s [][]step) bool { return len(s) > 0 })
}

// makePlan is pure. It also returns the ruleset that the plan leads to, which
// has the versions that the kernel is to have. No version at or below the
// floor of its split is made anew.
func makePlan(have sight, splits []traffic.Split, settings Settings, about About, floor map[string]int) (plan, Ruleset) {
	want := wanted(have, splits, settings, about, floor)
	var p plan
	served := servedBy(want)
	for _, w := range want.tables {
		p.bring(have.table(w.name), w, served)
	}
	for _, name := range have.names() {
		if _, wanted := want.table(name); !wanted {
			p.abandon(have[name])
		}
	}
	return p, want
}

// wanted is the ruleset that the kernel is to have, with the versions and in
// the tables that it has already where it can be.
func wanted(have sight, splits []traffic.Split, settings Settings, about About, floor map[string]int) Ruleset {
	if len(splits) == 0 && len(have) == 0 {
		return Ruleset{}
	}
	return build(splits, settings, chooseVersions(have, splits, settings, floor), have.standing()).WithAbout(about)
}

// bring plans for one table. served says of what clients ask for whether any of
// the tables is to serve it.
func (p *plan) bring(have observed, want table, served func(place) bool) {
	if have.exists && have.broken(want) {
		p.rebuild = append(p.rebuild, want.name)
		have = missing(want.name)
	}
	t := tablePlan{plan: p, have: have, want: want, changing: map[string]bool{}}
	t.objects()
	t.groups()
	t.chains()
	t.services(served)
	t.entrances()
	t.foreign()
}

// abandon closes a table that no split stands in any more: the next plan does
// not see it, so its end is planned as one.
func (p *plan) abandon(have observed) {
	var remove []operation
	for at := range have.elements {
		remove = append(remove, at.removal())
	}
	if len(remove) > 0 {
		p.steps[shut] = append(p.steps[shut], on(have.table, remove...))
	}
	p.leftovers = append(p.leftovers, leftover{kind: leftTable, table: have.table})
}

// tablePlan plans for one table.
type tablePlan struct {
	*plan
	have observed
	want table
	// changing are the splits that packets find otherwise meanwhile.
	changing map[string]bool
}

// in adds one group of steps to a phase.
func (t tablePlan) in(at phase, operations ...operation) {
	t.steps[at] = append(t.steps[at], on(t.want.name, operations...))
}

func (t tablePlan) left(kind leftoverKind, name string) {
	t.leftovers = append(t.leftovers, leftover{kind: kind, table: t.want.name, name: name})
}

func (t table) chain(name string) (chain, bool) {
	i := slices.IndexFunc(t.chains, func(c chain) bool { return c.name == name })
	if i < 0 {
		return chain{}, false
	}
	return t.chains[i], true
}

// chooseVersions keeps the version of a split that has its weights already and
// counts on otherwise.
func chooseVersions(have sight, splits []traffic.Split, settings Settings, floor map[string]int) map[string]int {
	newest := map[string]int{}
	for _, o := range have {
		for name := range o.chains {
			if split, version, ok := versionOf(name); ok {
				newest[split] = max(newest[split], version)
			}
		}
	}
	standing := have.standing()
	versions := map[string]int{}
	for _, s := range splits {
		versions[s.Name] = max(newest[s.Name], floor[s.Name]) + 1
		o := have.table(standing[s.Name])
		current, ok := o.currentVersion(s.Name)
		if ok && sameRules(o.chains[versionChain(s.Name, current)].rules, versionRules(s, settings, current).rules) {
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
// map, a set or a chain of ours is of another type.
func (o observed) broken(want table) bool {
	if o.dormant {
		return true
	}
	for _, right := range o.maps {
		if !right {
			return true
		}
	}
	for _, g := range want.groups {
		for _, set := range g.sets() {
			if slices.Contains(o.sets, set) {
				return true
			}
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

// objects makes the table itself, its named objects and its maps.
func (t tablePlan) objects() {
	if !t.have.exists {
		t.in(prepare, addTable{})
	}
	counters, timeouts := map[string]bool{}, map[string]bool{}
	for _, name := range t.want.counters {
		counters[name] = true
		if _, ok := t.have.counters[name]; !ok {
			t.in(prepare, addCounter{name: name})
		}
	}
	for _, wanted := range t.want.timeouts {
		timeouts[wanted.name()] = true
		if !t.have.timeouts[wanted.name()] {
			t.in(prepare, addTimeout{timeout: wanted})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.have.counters)) {
		if !counters[name] {
			t.left(leftCounter, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.have.timeouts)) {
		if !timeouts[name] {
			t.left(leftTimeout, name)
		}
	}
	for _, m := range t.want.maps() {
		if _, ok := t.have.maps[m]; !ok {
			t.in(prepare, addMap{name: m})
		}
	}
}

// chains makes the missing chains and mends those that differ. What belongs to
// one split changes in one transaction.
func (t tablePlan) chains() {
	mends := map[string][]operation{}
	var order []string
	for _, w := range t.want.chains {
		h, ok := t.have.chains[w.name]
		if !ok {
			if w.name != entranceChain && w.name != entranceLocalChain {
				t.in(prepare, addChain{chain: w})
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
		t.in(door, mends[split]...)
		t.changing[split] = true
	}
}

// entrances are the last to be made: packets come in by them.
func (t tablePlan) entrances() {
	for _, name := range []string{entranceChain, entranceLocalChain} {
		w, wanted := t.want.chain(name)
		if _, stands := t.have.chains[name]; wanted && !stands {
			t.in(enter, addChain{chain: w})
		}
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

// foreign sorts what nothing wants: chains of ours become leftovers, what
// another program put into our table goes at once.
func (t tablePlan) foreign() {
	wanted := map[string]bool{}
	for _, c := range t.want.chains {
		wanted[c.name] = true
	}
	var flush, remove []operation
	for _, name := range t.have.chainNames() {
		switch {
		case wanted[name]:
		case ours(name):
			t.leftovers = append(t.leftovers, leftChain(t.want.name, name))
		default:
			flush = append(flush, flushChain{name: name})
			remove = append(remove, removeChain{name: name})
		}
	}
	for _, name := range t.have.sets {
		remove = append(remove, removeSet{name: name})
	}
	if len(remove) > 0 {
		t.in(enter, append(flush, remove...)...)
	}
}

// ours says whether a chain may be a leftover of ours.
func ours(chain string) bool {
	return strings.HasPrefix(chain, splitPrefix) || slices.Contains([]string{
		exitChain, chainClamp, chainClampOpening, entranceLocalChain, chainDispatchLocal, chainDivert, chainDivertLocal, chainDispatchSampled,
	}, chain)
}
