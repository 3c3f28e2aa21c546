package netfilter

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// Forced is what ForceOff did to one split.
type Forced struct {
	Split string
	// Generation is the split's number now: one more than before, unless all
	// its candidates were at 0 already.
	Generation traffic.Generation
	// PreviousPPM is the sum of the candidates' weights before.
	PreviousPPM traffic.Weight
	// PreviousSample is the share of the primary's flows that a relay got before.
	PreviousSample traffic.Weight
}

// ForceOff sends all new flows of the split, or of every split when it is "",
// to the primary. It needs no daemon, store or configuration: what it must
// know is in the names of the kernel's chains. One transaction turns off
// hundreds of splits at once. End a hung daemon first, so that it does not
// write over it.
func ForceOff(ctx context.Context, _ Settings, split string) ([]Forced, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var l link
	defer l.close()
	var done []Forced
	err := l.undisturbed(func() error {
		again, err := l.forceOff(split)
		done = forcedBefore(done, again)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("force off: %w", err)
	}
	return done, nil
}

// forcedBefore is what was done in all when a second attempt had to follow.
func forcedBefore(first, second []Forced) []Forced {
	for i, f := range second {
		for _, before := range first {
			if before.Split == f.Split && before.Generation == f.Generation {
				second[i] = before
			}
		}
	}
	return second
}

// forceOff reads, plans and writes. What it tells of an error is what it would
// have done.
func (l *link) forceOff(split string) ([]Forced, error) {
	have, err := l.observe(weightsOnly)
	if err != nil {
		return nil, err
	}
	standing := have.standing()
	names := slices.Sorted(maps.Keys(standing))
	if split != "" {
		if !slices.Contains(names, split) {
			return nil, fmt.Errorf("the kernel has no split %q, it has %s", split, cmp.Or(strings.Join(names, ", "), "none at all"))
		}
		names = []string{split}
	}
	var done []Forced
	var groups [][]step
	for _, name := range names {
		f, change, err := have[standing[name]].force(name)
		if err != nil {
			return nil, err
		}
		done = append(done, f)
		if len(change) > 0 {
			groups = append(groups, change)
		}
	}
	all := transactions(groups, l.room)
	for i, t := range all {
		if err := l.commit(t); err != nil {
			return done, fmt.Errorf("transaction %d of %d: %w", i+1, len(all), err)
		}
	}
	return done, nil
}

// force turns one split off unless it is off already.
func (o observed) force(split string) (Forced, []step, error) {
	primary, found := o.primary(split)
	if !found {
		return Forced{}, nil, fmt.Errorf("split %q has no chain of a primary: run `splitd cleanup` to stop splitting altogether", split)
	}
	rules := o.chains[trampolineChain(split)].rules
	state, ok := o.state(split)
	f := Forced{Split: split, Generation: state.Generation, PreviousSample: state.Sample}
	for _, w := range state.Weights {
		f.PreviousPPM += w
	}
	if ok && len(rules) == 1 && rules[0].target == primary {
		return f, nil, nil
	}
	f.Generation++
	want := chain{name: trampolineChain(split), rules: []rule{trampolineRule(primary, f.Generation, true)}}
	return f, on(o.table, replaceRules{chain: want}), nil
}

// primary finds the chain of the primary: the one that the split's rules in
// force lead to, since a change of primaries leaves the old chain behind for a
// moment.
func (o observed) primary(split string) (string, bool) {
	isPrimary := func(chain string) bool {
		owner, kind, _ := nameOf(chain)
		return owner == split && kind == string(traffic.RolePrimary)
	}
	for _, entry := range o.chains[trampolineChain(split)].rules {
		for _, r := range append([]observedRule{entry}, o.chains[entry.target].rules...) {
			if isPrimary(r.leads) {
				return r.leads, true
			}
			for _, p := range r.shares {
				if isPrimary(p.chain) {
					return p.chain, true
				}
			}
		}
	}
	names := slices.DeleteFunc(o.chainNames(), func(name string) bool { return !isPrimary(name) })
	if len(names) == 0 {
		return "", false
	}
	return names[0], true
}

// ReadAbout returns what the kernel's tables tell of the daemon that wrote
// them, the zero value when there is no table or it tells nothing.
func ReadAbout() (About, error) {
	var l link
	defer l.close()
	have, err := l.observe(func(chain string) bool { return chain == chainAbout })
	if err != nil {
		return About{}, fmt.Errorf("read from the kernel who wrote its rules: %w", err)
	}
	for _, name := range have.names() {
		var comments []string
		for _, r := range have[name].chains[chainAbout].rules {
			comments = append(comments, r.comment)
		}
		if about := aboutOf(comments); about != (About{}) {
			return about, nil
		}
	}
	return About{}, nil
}
