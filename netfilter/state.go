package netfilter

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// SplitState is what the kernel does for one split.
type SplitState struct {
	Generation traffic.Generation
	// Weights has every candidate that the kernel knows, those at 0 too.
	Weights map[string]traffic.Weight
	// Forced says that ForceOff turned the split off.
	Forced bool
	// Slots say who draws what; see traffic.Split.
	Slots traffic.Slots
}

// Read returns what the kernel does now, by split. It needs no configuration
// and changes nothing.
func (k *Kernel) Read(ctx context.Context) (map[string]SplitState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	have, err := k.observe(weightsOnly)
	if err != nil {
		return nil, fmt.Errorf("read splits from the kernel: %w", err)
	}
	states := map[string]SplitState{}
	for _, name := range have.splits() {
		if state, ok := have.state(name); ok {
			states[name] = state
		}
	}
	return states, nil
}

// splits lists the splits that a service leads to. The chains of one that was
// removed stand for a moment longer, but nothing reaches them.
func (o observed) splits() []string {
	reached := map[string]bool{}
	for _, target := range o.elements {
		split, kind, _ := nameOf(target)
		if _, stands := o.chains[target]; stands && split != "" && kind == "" {
			reached[split] = true
		}
	}
	return slices.Sorted(maps.Keys(reached))
}

// state reads the trampoline of a split and where it leads. A split whose
// trampoline leads nowhere that we know has none.
func (o observed) state(split string) (SplitState, bool) {
	for _, r := range o.chains[trampolineChain(split)].rules {
		if r.target == "" {
			continue
		}
		s := SplitState{Weights: map[string]traffic.Weight{}}
		s.Generation, s.Forced = parseGeneration(r.comment)
		for _, backend := range o.candidates[split] {
			s.Weights[backend] = 0
		}
		for _, rule := range o.chains[r.target].rules {
			for _, p := range rule.shares {
				if _, kind, backend := nameOf(p.chain); kind == string(traffic.RoleCandidate) {
					s.Weights[backend] += traffic.Weight(p.last - p.first + 1)
				}
			}
		}
		return s, true
	}
	return SplitState{}, false
}

// parseGeneration reads what generationComment writes; a comment that it did
// not write is generation 0.
func parseGeneration(comment string) (g traffic.Generation, forced bool) {
	rest, forced := strings.CutSuffix(comment, " forced")
	if _, err := fmt.Sscanf(rest, "gen=%d", &g); err != nil || generationComment(g, forced) != comment {
		return 0, false
	}
	return g, forced
}
