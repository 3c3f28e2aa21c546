package daemon

import (
	"slices"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// A holding is what a candidate takes: its share of the draw, and who always or
// never goes to it.
type holding struct {
	weight  traffic.Weight
	clients traffic.Clients
}

// holdings are those of the candidates of one split, and under traffic.SampleKey
// the weight of its sample; one that is not named takes nothing.
type holdings map[string]holding

// holdingsOf are those of a split in force. The groups of a closed candidate
// are not in force.
func holdingsOf(split traffic.Split) holdings {
	all := holdings{traffic.SampleKey: {weight: split.Sample}}
	for _, c := range split.Candidates {
		all[c.Name] = holding{weight: c.Weight, clients: groupsOf(c)}
	}
	return all
}

// holdingsIn are those that the kernel has.
func holdingsIn(kernel netfilter.SplitState) holdings {
	all := holdings{traffic.SampleKey: {weight: kernel.Sample}}
	for name, weight := range kernel.Weights {
		h := holding{weight: weight}
		if !kernel.Forced && !slices.Contains(kernel.Closed, name) {
			h.clients = kernel.Clients[name]
		}
		all[name] = h
	}
	return all
}

func groupsOf(c traffic.Backend) traffic.Clients {
	if c.Closed {
		return traffic.Clients{}
	}
	return c.Clients
}

func sameGroups(a, b traffic.Split) bool {
	return slices.EqualFunc(a.Candidates, b.Candidates, func(x, y traffic.Backend) bool {
		return slices.Equal(x.Clients.Always, y.Clients.Always) && slices.Equal(x.Clients.Never, y.Clients.Never)
	})
}

// side is what the history tells, but for the overrides; nothing where nothing is
// known.
func (h holdings) side() state.Side {
	if h == nil {
		return state.Side{}
	}
	weights := map[string]traffic.Weight{}
	for name, one := range h {
		if name != traffic.SampleKey {
			weights[name] = one.weight
		}
	}
	return state.Side{Weights: weights, Sample: h.sample()}
}

func (h holdings) sample() traffic.Weight { return h[traffic.SampleKey].weight }

// raisedBy says whether a candidate of the split takes more than before, a
// bigger share, or clients by its groups; or whether more is sampled.
func (h holdings) raisedBy(after traffic.Split) bool {
	return after.Sample > h.sample() || slices.ContainsFunc(after.Candidates, func(c traffic.Backend) bool {
		return c.Weight > h[c.Name].weight || h[c.Name].grows(c)
	})
}

// grows says whether a candidate takes clients by its groups that it did not
// take. One that takes nobody lets nobody in by forgetting who never comes.
func (h holding) grows(c traffic.Backend) bool {
	now := groupsOf(c)
	return !c.Closed && (c.Weight > 0 || len(now.Always) > 0) && now.Exceeds(h.clients)
}
