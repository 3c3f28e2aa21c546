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
	returns, err := BuildReturns(paths, k.options.Settings)
	if err != nil {
		return nil, err
	}
	have, err := k.observe(everything)
	if err != nil {
		return nil, fmt.Errorf("compare with the kernel: %w", err)
	}
	_, want := makePlan(have, splits, k.options.Settings, k.options.StateDir, nil)
	lines := differences(have, want, splits)
	var more []string
	err = k.withLink(func(l *link) error {
		if err := l.open(); err != nil {
			return err
		}
		more, err = differencesReturns(ctx, returns, l.conn)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare return paths with the kernel: %w", err)
	}
	return append(lines, more...), nil
}

// differences is pure; want is what makePlan returned for have.
func differences(have observed, want Ruleset, splits []traffic.Split) []string {
	switch {
	case !have.exists && len(want.chains) == 0:
		return nil
	case !have.exists:
		return []string{fmt.Sprintf("table inet %s is missing", TableSplits)}
	case have.dormant:
		return []string{fmt.Sprintf("table inet %s is dormant", TableSplits)}
	}
	var lines []string
	add := func(format string, arguments ...any) { lines = append(lines, fmt.Sprintf(format, arguments...)) }
	for _, name := range want.counters {
		if _, ok := have.counters[name]; !ok {
			add("counter %s is missing", name)
		}
	}
	for _, m := range []serviceMap{services4, services6} {
		if right, ok := have.maps[m]; !ok {
			add("map %s is missing", m)
		} else if !right {
			add("map %s is of another type", m)
		}
	}
	lines = append(lines, serviceDifferences(have, want)...)
	for _, s := range traffic.SortSplits(splits) {
		lines = append(lines, splitDifferences(have, s)...)
	}
	return append(lines, chainDifferences(have, want)...)
}

func serviceDifferences(have observed, want Ruleset) []string {
	var lines []string
	wanted := map[service]bool{}
	for _, e := range want.elements {
		wanted[e.service] = true
		if target, ok := have.elements[e.service]; !ok {
			lines = append(lines, fmt.Sprintf("service %s is missing: %s is wanted", e.service.text(), e.chain))
		} else if target != e.chain {
			lines = append(lines, fmt.Sprintf("service %s leads to %s: %s is wanted", e.service.text(), target, e.chain))
		}
	}
	var others []string
	for s := range have.elements {
		if !wanted[s] {
			others = append(others, fmt.Sprintf("service %s is not wanted", s.text()))
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
	for _, c := range s.Candidates {
		if weight, ok := state.Weights[c.Name]; ok && weight != c.Weight {
			lines = append(lines, fmt.Sprintf("split %q: weight of %q is %s, %s is wanted", s.Name, c.Name, weight, c.Weight))
		}
	}
	return lines
}

func chainDifferences(have observed, want Ruleset) []string {
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
	want.name, want.rules = name, want.rules[:len(want.rules)-1]
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
