package netfilter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// Differences compares what is wanted with what the kernel has and returns a
// readable line for each difference, none if they agree. It changes nothing.
func (k *Kernel) Differences(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error) {
	relayed := k.wouldRelay(splits)
	splits = kernelSplits(splits)
	returns, err := buildRouting(splits, paths, k.options.Settings)
	if err != nil {
		return nil, err
	}
	returns = returns.withLegs(relayed)
	have, err := k.observe()
	if err != nil {
		return nil, fmt.Errorf("compare with the kernel: %w", err)
	}
	lines := k.compared.lines(have, splits, k.options.Settings, k.options.About)
	var more, small []string
	err = k.withLink(func(l *link) error {
		if err := l.open(); err != nil {
			return err
		}
		if more, err = differencesReturns(ctx, returns, l.conn); err != nil {
			return err
		}
		small, err = l.differencesWhole(append(mirrors(splits), relayed.table(k.options.Settings))...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare return paths, mirrors and transparent relays with the kernel: %w", err)
	}
	return slices.Concat(lines, more, small), nil
}

// differences is pure; want is what makePlan returned for have.
func differences(have sight, want Ruleset, splits []traffic.Split) []string {
	var lines []string
	standing := have.standing()
	for _, t := range want.tables {
		lines = append(lines, tableDifferences(have.table(t.name), t)...)
	}
	for _, s := range traffic.SortSplits(splits) {
		lines = append(lines, splitDifferences(have.table(standing[s.Name]), s)...)
	}
	for _, name := range have.names() {
		if _, wanted := want.table(name); !wanted && len(have[name].elements) > 0 {
			lines = append(lines, fmt.Sprintf("table inet %s is not wanted", name))
		}
	}
	return lines
}

func tableDifferences(have observed, want table) []string {
	switch {
	case !have.exists:
		return []string{fmt.Sprintf("table inet %s is missing", want.name)}
	case have.dormant:
		return []string{fmt.Sprintf("table inet %s is dormant", want.name)}
	}
	var lines []string
	add := func(format string, arguments ...any) { lines = append(lines, fmt.Sprintf(format, arguments...)) }
	for _, name := range want.counters {
		if _, ok := have.counters[name]; !ok {
			add("counter %s is missing", name)
		}
	}
	for _, o := range want.timeouts {
		if !have.timeouts[o.name()] {
			add("ct timeout %s is missing", o.name())
		}
	}
	for _, m := range want.maps() {
		if right, ok := have.maps[m]; !ok {
			add("map %s is missing", m.name())
		} else if !right {
			add("map %s is of another type", m.name())
		}
	}
	lines = append(lines, groupDifferences(have, want)...)
	lines = append(lines, serviceDifferences(have, want)...)
	return append(lines, chainDifferences(have, want)...)
}

// groupDifferences counts the networks that are otherwise than wanted, and
// names the first one.
func groupDifferences(have observed, want table) []string {
	var lines []string
	for _, g := range want.groups {
		whole := true
		for _, set := range g.sets() {
			if _, stands := have.groups[set]; !stands {
				whole = false
				lines = append(lines, fmt.Sprintf("set %s is missing", set))
			}
		}
		if !whole {
			continue
		}
		add, remove := networkChanges(have.networks(g), g.networks)
		if len(add) > 0 {
			lines = append(lines, fmt.Sprintf("set %s lacks %d networks, such as %s", g.name, len(add), add[0].text()))
		}
		if len(remove) > 0 {
			lines = append(lines, fmt.Sprintf("set %s has %d networks that are not wanted, such as %s", g.name, len(remove), remove[0].text()))
		}
	}
	return lines
}

func serviceDifferences(have observed, want table) []string {
	var lines []string
	wanted := map[place]bool{}
	for _, e := range want.elements {
		wanted[e.place] = true
		if target, ok := have.elements[e.place]; !ok {
			lines = append(lines, fmt.Sprintf("service %s is missing: %s is wanted", e.service.text(), e.chain))
		} else if target != e.chain {
			lines = append(lines, fmt.Sprintf("service %s leads to %s: %s is wanted", e.service.text(), target, e.chain))
		}
	}
	var others []string
	for at := range have.elements {
		if !wanted[at] {
			others = append(others, fmt.Sprintf("service %s is not wanted", at.service.text()))
		}
	}
	for _, e := range have.foreign {
		others = append(others, fmt.Sprintf("map %s has an element that is not ours", e.set))
	}
	slices.Sort(others)
	return append(lines, others...)
}

// splitDifferences speaks of generation and weights instead of rules.
func splitDifferences(have observed, s traffic.Split) []string {
	state, ok := have.state(s.Name)
	if !ok {
		return nil // its chains are named as missing
	}
	var lines []string
	if state.Generation != s.Generation || state.Forced {
		forced := ""
		if state.Forced {
			forced = " (forced off)"
		}
		lines = append(lines, fmt.Sprintf("split %q: generation is %d%s, %d is wanted", s.Name, state.Generation, forced, s.Generation))
	}
	if wanted := sampleOf(s); state.Sample != wanted {
		lines = append(lines, fmt.Sprintf("split %q: sample is %s, %s is wanted", s.Name, state.Sample, wanted))
	}
	for _, c := range s.Candidates {
		if weight, ok := state.Weights[c.Name]; ok && weight != c.Weight {
			lines = append(lines, fmt.Sprintf("split %q: weight of %q is %s, %s is wanted", s.Name, c.Name, weight, c.Weight))
		}
	}
	return lines
}

func chainDifferences(have observed, want table) []string {
	var lines []string
	add := func(format string, arguments ...any) { lines = append(lines, fmt.Sprintf(format, arguments...)) }
	wanted := map[string]bool{}
	for _, w := range want.chains {
		wanted[w.name] = true
		h, ok := have.chains[w.name]
		_, kind, rest := nameOf(w.name)
		switch {
		case !ok && strings.HasPrefix(kind, "v") && rest == "":
			lines = append(lines, versionDifferences(have, w)...)
		case !ok:
			add("chain %s is missing", w.name)
		case !h.hookedLike(w):
			add("chain %s has another hook, priority, type or policy", w.name)
		default:
			lines = append(lines, ruleDifferences(h, w)...)
		}
	}
	for _, name := range have.chainNames() {
		if !wanted[name] && !ours(name) {
			add("chain %s is not ours", name)
		}
	}
	for _, name := range have.sets {
		add("set %s is not ours", name)
	}
	return lines
}

// owesSet says whether a rule draws.
func owesSet(r rule) bool {
	return slices.ContainsFunc(r.statements, func(s statement) bool { _, ok := s.(draw); return ok })
}

// versionDifferences compares the wanted version with the one in force; that
// its draw differs is told as weights.
func versionDifferences(have observed, want chain) []string {
	split, _, _ := nameOf(want.name)
	version, ok := have.currentVersion(split)
	if !ok {
		return nil
	}
	name := versionChain(split, version)
	h := have.chains[name]
	h.rules = slices.DeleteFunc(slices.Clone(h.rules), func(r observedRule) bool { return len(r.shares) > 0 })
	if len(h.rules) > 0 {
		h.rules, want.rules = h.rules[1:], want.rules[1:] // the generation, which is told too
	}
	want.name, want.rules = name, slices.DeleteFunc(slices.Clone(want.rules), owesSet)
	return ruleDifferences(h, want)
}

func ruleDifferences(have observedChain, want chain) []string {
	var lines []string
	extra, missing := compareRuleLists(have.rules, want.rules)
	_, kind, _ := nameOf(want.name)
	trampoline := strings.HasPrefix(want.name, splitPrefix) && kind == ""
	for _, r := range missing {
		if trampoline && len(have.rules) > 0 {
			continue // told as generation and weights
		}
		lines = append(lines, fmt.Sprintf("chain %s lacks the rule: %s", want.name, r.text()))
	}
	for _, r := range extra {
		if trampoline && r.target != "" {
			continue
		}
		lines = append(lines, fmt.Sprintf("chain %s has a rule that is not ours (handle %d)", want.name, r.handle))
	}
	return lines
}
