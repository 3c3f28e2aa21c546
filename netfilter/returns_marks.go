package netfilter

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// The chains of the marking table. New flows are marked where they come in;
// replies get the packet mark that the ip rules look at, both those of this
// host (output: a chain of type route looks the route up again) and those
// forwarded for containers behind it (prerouting). Packets of the original
// direction get no packet mark: the rule would send them back where they came
// from. The answer to a SYN is made with the segment size of a route that knows
// no mark; chainClamp lowers it to what the way back carries.
const (
	chainArrivals   = "arrivals"
	chainReplies    = "replies"
	chainPrerouting = "prerouting"
	chainOutput     = "output"
)

// markChain is a chain of the marking table; one without kind is jumped to.
type markChain struct {
	name  string
	kind  nftables.ChainType
	hook  string // hookPrerouting, hookOutput or hookPostrouting
	rules []rule
}

// neighbourSet holds the link-layer addresses of a path's router. Text has no
// elements: they are a fact of the network, kept current while splitd runs.
type neighbourSet struct {
	name string
	path markPath
}

func (p markPath) setName() string { return "neighbour/" + p.name }

// sets lists the sets of the marking table.
func (r Returns) sets() []neighbourSet {
	var sets []neighbourSet
	for _, p := range r.marks {
		if p.via.IsValid() {
			sets = append(sets, neighbourSet{name: p.setName(), path: p})
		}
	}
	return sets
}

// chains lists the chains of the marking table in the order in which they
// stand there; none when no path matches by mark.
func (r Returns) chains() []markChain {
	if len(r.marks) == 0 {
		return nil
	}
	arrivals, replies := markChain{name: chainArrivals}, markChain{name: chainReplies}
	clamp := markChain{name: chainClamp, kind: nftables.ChainTypeFilter, hook: hookPostrouting}
	for _, p := range r.marks {
		arrivals.rules = append(arrivals.rules, p.arrivals(r.settings)...)
		replies.rules = append(replies.rules, p.reply(r.settings))
		clamp.rules = append(clamp.rules, p.clamp(r.settings))
	}
	toReplies := rule{statements: []statement{direction{reply: true}, jumpTo(chainReplies)}}
	toArrivals := rule{statements: []statement{direction{}, newFlow{}, jumpTo(chainArrivals)}}
	return []markChain{
		arrivals, replies,
		{name: chainPrerouting, kind: nftables.ChainTypeFilter, hook: hookPrerouting, rules: []rule{toReplies, toArrivals}},
		{name: chainOutput, kind: nftables.ChainTypeRoute, hook: hookOutput, rules: []rule{toReplies}},
		clamp,
	}
}

// arrivals mark the new flows of the path.
func (p markPath) arrivals(s Settings) []rule {
	services := [][]statement{nil}
	if len(p.ports) > 0 {
		services = nil
		for _, port := range p.ports {
			services = append(services, []statement{destinationPort{port: port}})
		}
	}
	var rules []rule
	for _, origin := range p.origins() {
		for _, service := range services {
			r := rule{comment: p.name}
			r.statements = append(r.statements, origin...)
			r.statements = append(r.statements, service...)
			r.statements = append(r.statements, markFlow{keep: s.keep(), value: p.mark}, back())
			rules = append(rules, r)
		}
	}
	return rules
}

// origins are the ways in which a flow of the path can come in: from its
// router's link-layer address or, by a device that has none (a tunnel), from
// anywhere.
func (p markPath) origins() [][]statement {
	device := incoming{device: p.device}
	if !p.via.IsValid() {
		return [][]statement{{device}}
	}
	family := addressed{six: p.via.Is6()}
	return [][]statement{
		{family, device, fromNeighbour{set: p.setName()}},
		{family, device, noEthernet{}},
	}
}

// reply gives the replies of the path's flows their packet mark.
func (p markPath) reply(s Settings) rule {
	return rule{comment: p.name, statements: []statement{
		marked{mask: s.ClassMask(), value: p.mark}, markPacket{keep: s.keep(), value: p.mark}, back(),
	}}
}

// clamp lowers the segment size that the path's flows may use.
func (p markPath) clamp(s Settings) rule {
	return rule{comment: p.name, statements: []statement{
		opensTCP{}, marked{mask: s.ClassMask(), value: p.mark}, clampSegments{},
	}}
}

// expressions of all statements, for the kernel.
func (r rule) expressions() []expr.Any {
	var all []expr.Any
	for _, s := range r.statements {
		all = append(all, s.expressions()...)
	}
	return all
}

func (r rule) userData() []byte {
	if r.comment == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, r.comment)
}

// inKernel makes the chain for the kernel.
func (c markChain) inKernel(table *nftables.Table) *nftables.Chain {
	chain := &nftables.Chain{Name: c.name, Table: table}
	if c.kind == "" {
		return chain
	}
	policy := nftables.ChainPolicyAccept
	chain.Type, chain.Policy = c.kind, &policy
	chain.Priority = nftables.ChainPriorityRef(priorityReturn)
	switch c.hook {
	case hookOutput:
		chain.Hooknum = nftables.ChainHookOutput
	case hookPostrouting:
		chain.Hooknum, chain.Priority = nftables.ChainHookPostrouting, nftables.ChainPriorityRef(priorityClamp)
	default:
		chain.Hooknum = nftables.ChainHookPrerouting
	}
	return chain
}
