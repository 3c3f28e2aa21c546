package splitter

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// SetWeights gives the split of that name the state of the one given: weights,
// slots, sample, generation, and what of its backends is closed or down. Its
// definition is not looked at. Every connection accepted after it returns is drawn with the
// new state. An error (no such split, no such candidate, over 100 %) changes
// nothing.
func (r *Relay) SetWeights(split traffic.Split) error {
	return r.restate("set weights", split, func(current traffic.Split) (traffic.Split, error) {
		changed, err := current.WithWeights(split.Weights())
		changed.Generation, changed.Slots, changed.Sample = split.Generation, split.Slots, split.Sample
		return changed, err
	})
}

// SetBackends gives the split of that name what is closed and down of the one
// given, and nothing else.
func (r *Relay) SetBackends(split traffic.Split) error {
	return r.restate("set backends", split, func(current traffic.Split) (traffic.Split, error) { return current, nil })
}

// restate has the split of that name served as change makes of it, with the
// backends as they are in the one given.
func (r *Relay) restate(what string, given traffic.Split, change func(traffic.Split) (traffic.Split, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return ErrStopped
	}
	current, ok := r.splits[given.Name]
	if !ok {
		return fmt.Errorf("%s of split %q: it is not served in mode proxy", what, given.Name)
	}
	changed, err := change(current)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	changed = withBackends(changed, given)
	r.revive(current, changed)
	choices, err := r.restated(current, changed)
	if err != nil {
		return err
	}
	anew := false // with other addresses, it may be
	for _, made := range choices {
		anew = anew || made.front.choice.Load().standing != made.choice.standing
		made.front.apply(made.choice)
	}
	if anew {
		r.forgetCircuits()
	}
	r.splits[given.Name] = changed
	return nil
}

// made is a choice that a front is to make.
type made struct {
	front  *front
	choice *choice
}

// restated makes the choices of a split's fronts: of what they have where its
// weights alone have changed, because a split may have thousands of fronts, and
// each of those thousands of addresses to choose from. r.mu is held.
func (r *Relay) restated(current, changed traffic.Split) ([]made, error) {
	choices, rules := make([]made, 0, len(r.fronts)), r.restatedRules(changed)
	weightsAlone := sameBackends(current, changed)
	for address, f := range r.fronts {
		before := f.choice.Load()
		switch {
		case before.split != changed.Name:
			continue
		case weightsAlone && !f.goes:
			choices = append(choices, made{f, before.restated(changed, rules)})
			continue
		}
		c, err := r.choice(changed, rules, address)
		switch {
		case err == nil:
			choices = append(choices, made{f, c})
		case f.goes:
			choices = append(choices, made{f, before.toPrimary()})
		default:
			return nil, err
		}
	}
	return choices, nil
}

// restatedRules are the rules of a split that is served already, with its weights.
// r.mu is held.
func (r *Relay) restatedRules(changed traffic.Split) *rules {
	for _, f := range r.fronts {
		if c := f.choice.Load(); c.split == changed.Name && !f.goes {
			return c.rules.restated(changed)
		}
	}
	return rulesOf(changed)
}

// sameBackends says whether nothing of them is closed or down that was not before,
// or the other way round.
func sameBackends(s, other traffic.Split) bool {
	return slices.EqualFunc(s.Backends(), other.Backends(), func(a, b traffic.Backend) bool {
		return a.Name == b.Name && a.Closed == b.Closed && slices.Equal(a.Down, b.Down)
	})
}

// withBackends is s with what is closed and down in the other one.
func withBackends(s, other traffic.Split) traffic.Split {
	s.Primary.Down = other.Primary.Down
	s.Candidates = slices.Clone(s.Candidates)
	for i, c := range s.Candidates {
		if is, ok := other.Candidate(c.Name); ok {
			s.Candidates[i].Closed, s.Candidates[i].Down = is.Closed, is.Down
		}
	}
	return s
}

// revive closes the circuits of addresses that are down no more: checks have
// connected them several times, so flows need not wait for a probe. r.mu is
// held.
func (r *Relay) revive(before, after traffic.Split) {
	for _, c := range after.Candidates {
		was, _ := before.Candidate(c.Name)
		if len(was.Down) == 0 {
			continue // there may be thousands of circuits
		}
		risen := func(ip netip.Addr) bool { return slices.Contains(was.Down, ip) && !slices.Contains(c.Down, ip) }
		key := traffic.BackendKey{Split: after.Name, Backend: c.Name}
		maps.DeleteFunc(r.circuits, func(k circuitKey, _ *circuit) bool { return k.backend == key && risen(k.at.Addr()) })
	}
}
