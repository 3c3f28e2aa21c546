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
	// Sample is the share of the primary's flows that a relay gets.
	Sample traffic.Weight
	// Forced says that ForceOff turned the split off.
	Forced bool
	// Slots say who draws what, where a client network draws the same each
	// time; see traffic.Split.
	Slots traffic.Slots
	// Clients are the groups of candidates that have some.
	Clients map[string]traffic.Clients
	// Closed are the candidates that take no flow whatever their weight.
	Closed []string
	// Down has the families in which a candidate is withdrawn because health
	// checks found it dead.
	Down map[string]Families
}

// Families says which families something is about.
type Families struct{ IPv4, IPv6 bool }

// Read returns what the kernel does now, by split. It needs no configuration
// and changes nothing.
func (k *Kernel) Read(ctx context.Context) (map[string]SplitState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	have, err := k.observe()
	if err != nil {
		return nil, fmt.Errorf("read splits from the kernel: %w", err)
	}
	states := map[string]SplitState{}
	for name, table := range have.standing() {
		if state, ok := have[table].state(name); ok {
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
			o.readGate(split, backend, &s)
		}
		s.readDraw(o.draw(r.target))
		s.Sample = o.sample(r.target)
		s.readGroups(split, o)
		return s, true
	}
	return SplitState{}, false
}

// draw is the first draw of a version: those of its families are alike.
func (o observed) draw(version string) observedRule {
	for _, r := range o.chains[version].rules {
		if len(r.shares) > 0 {
			return r
		}
	}
	return observedRule{}
}

func (s *SplitState) readDraw(r observedRule) {
	for _, p := range r.shares {
		_, kind, backend := nameOf(p.chain)
		if kind != string(traffic.RoleCandidate) {
			continue
		}
		s.Weights[backend] += traffic.Weight(p.last - p.first + 1)
		if r.byClient {
			s.Slots = append(s.Slots, traffic.Slot{First: traffic.Weight(p.first), Last: traffic.Weight(p.last), Candidate: backend})
		}
	}
}

// readGroups reads the sets of the candidates' groups.
func (s *SplitState) readGroups(split string, o observed) {
	for backend := range s.Weights {
		var c traffic.Clients
		for _, six := range []bool{false, true} {
			c.Always = append(c.Always, prefixesOf(o.networks(group{name: groupName(split, backend, groupAlways, six)}))...)
			c.Never = append(c.Never, prefixesOf(o.networks(group{name: groupName(split, backend, groupNever, six)}))...)
		}
		if c.IsZero() {
			continue
		}
		if s.Clients == nil {
			s.Clients = map[string]traffic.Clients{}
		}
		s.Clients[backend] = c
	}
}

// readGate reads what gate writes.
func (o observed) readGate(split, backend string, s *SplitState) {
	for _, r := range o.chains[backendChain(split, traffic.RoleCandidate, backend)].rules {
		switch r.comment {
		case commentClosed:
			s.Closed = append(s.Closed, backend)
		case commentDown:
			down := s.Down[backend]
			down.IPv4 = down.IPv4 || !r.six
			down.IPv6 = down.IPv6 || r.six
			if s.Down == nil {
				s.Down = map[string]Families{}
			}
			s.Down[backend] = down
		}
	}
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
