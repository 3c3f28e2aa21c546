package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// Names of chains. Those of a split are made of its name and its backends', so
// that who reads the kernel's listing needs nothing else.
const (
	chainAbout         = "about"
	chainDispatch      = "dispatch"
	chainDispatchLocal = "dispatch-local"
	entranceChain      = "prerouting"
	entranceLocalChain = "output"
	exitChain          = "postrouting"
	splitPrefix        = "split/"
)

func trampolineChain(split string) string { return splitPrefix + split }

func versionChain(split string, version int) string {
	return fmt.Sprintf("%s%s/v%d", splitPrefix, split, version)
}

func backendChain(split string, role traffic.Role, backend string) string {
	return splitPrefix + split + "/" + string(role) + "/" + backend
}

func counterName(split, backend string) string { return split + "/" + backend }

// comments of trampolines.
func generationComment(g traffic.Generation, forced bool) string {
	if forced {
		return fmt.Sprintf("gen=%d forced", g)
	}
	return fmt.Sprintf("gen=%d", g)
}

// Build makes the ruleset of the splits, which are given with the weights in
// force. It is pure: the same splits give the same ruleset, whatever their
// order.
func Build(splits []traffic.Split, settings Settings) Ruleset {
	if len(splits) == 0 {
		return Ruleset{}
	}
	return build(splits, settings, nil, nil)
}

// build gives each split the version number named in versions, 1 if none is,
// and puts it into the table that standing says, or into one with room.
// Without splits it makes the bare table, which keeps the flows of splits that
// were removed alive.
func build(splits []traffic.Split, settings Settings, versions map[string]int, standing map[string]string) Ruleset {
	var r Ruleset
	for _, p := range placed(splits, standing) {
		r.tables = append(r.tables, buildPlaced(p, splits, settings, versions))
	}
	return r
}

// buildPlaced makes one of the tables; splits are those of all.
func buildPlaced(p placement, splits []traffic.Split, settings Settings, versions map[string]int) table {
	t := buildTable(p.table, p.splits, settings, versions)
	if p.table == TableSplits {
		t.chains = append(t.chains, exits(splits, settings)...)
	}
	t.chains = append(t.chains, t.entrances(p.splits, settings)...)
	return t
}

// exits are the chains that flows of all tables pass on their way out, known by
// their marks. They stand in the first table alone.
func exits(splits []traffic.Split, settings Settings) []chain {
	var chains []chain
	if slices.ContainsFunc(splits, func(s traffic.Split) bool { return s.Return == traffic.ReturnMasquerade }) {
		chains = append(chains, masqueradeChain(splits, settings))
	}
	if len(splits) > 0 {
		chains = append(chains, clampChains(settings, slices.ContainsFunc(splits, hasRelay))...)
	}
	return chains
}

func buildTable(name string, splits []traffic.Split, settings Settings, versions map[string]int) table {
	t := table{name: name, chains: []chain{aboutChain(About{})}}
	for _, s := range splits {
		for _, b := range s.Backends() {
			t.counters = append(t.counters, counterName(s.Name, b.Name))
		}
		if s.UDPTimeout > 0 {
			t.timeouts = append(t.timeouts, timeout{split: s.Name, answered: s.UDPTimeout})
		}
		t.groups = append(t.groups, groups(s)...)
		t.elements = append(t.elements, elements(s)...)
		t.chains = append(t.chains, splitChains(s, settings, max(versions[s.Name], 1))...)
	}
	t.chains = append(t.chains, t.dispatchChain(chainDispatch, false))
	if slices.ContainsFunc(splits, startsHere) {
		t.chains = append(t.chains, t.dispatchChain(chainDispatchLocal, true))
	}
	if slices.ContainsFunc(splits, hasRelay) {
		t.chains = append(t.chains, t.divertChains(settings)...)
	}
	return t
}

// startsHere says whether flows that start on this host are split.
func startsHere(s traffic.Split) bool { return s.LocalClients }

// asksItself says whether a check of the split's primary asks for the service
// itself, so that conntrack alone cannot tell it from a client's flow.
func asksItself(s traffic.Split) bool {
	return slices.ContainsFunc(s.Service.Addresses, func(ip netip.Addr) bool {
		return slices.ContainsFunc(s.Service.Ports, func(p traffic.Port) bool { return s.StaysHere(s.Primary, ip, p.Number) })
	})
}

// entrances are where packets come in: the last chains to be made.
func (t table) entrances(splits []traffic.Split, settings Settings) []chain {
	all := []chain{entrance(entranceChain, hookPrerouting, chainDispatch)}
	local := slices.ContainsFunc(splits, startsHere)
	if local || slices.ContainsFunc(splits, asksItself) {
		all = append(all, localEntrance(settings, local))
	}
	return all
}

// entrance is where packets come in.
func entrance(name, where, to string) chain {
	return chain{
		name:  name,
		hook:  &hook{name: where, priority: prioritySplit},
		rules: []rule{{statements: []statement{jumpTo(to)}}},
	}
}

// localEntrance is where packets of this host come in, split or not. Its health
// checks pass by: they are to find the backend that they are for, and their
// class leaves them out of what is known of clients' flows. So do the flows of
// a relay, which have been drawn already.
func localEntrance(settings Settings, split bool) chain {
	marked := func(mark uint32) packetMarked { return packetMarked{mask: settings.ClassMask(), value: mark} }
	noted := markFlow{keep: settings.keep(), value: settings.mark(classCheck)}
	c := chain{name: entranceLocalChain, hook: &hook{name: hookOutput, priority: prioritySplit}, rules: []rule{
		{statements: []statement{marked(settings.CheckMark()), noted, back()}},
	}}
	if split {
		c.rules = append(c.rules,
			rule{statements: []statement{marked(settings.LegMark()), back()}},
			rule{statements: []statement{jumpTo(chainDispatchLocal)}})
	}
	return c
}

// dispatchChain looks a packet's destination up in those maps that the table
// needs.
func (t table) dispatchChain(name string, local bool) chain {
	c := chain{name: name, rules: []rule{{statements: []statement{notSyn{}, back()}}}}
	for _, m := range t.maps() {
		if m.local == local && !m.relay {
			c.rules = append(c.rules, rule{statements: []statement{dispatch{services: m}}})
		}
	}
	return c
}

func masqueradeChain(splits []traffic.Split, settings Settings) chain {
	classes := []markClass{classMasquerade}
	if slices.ContainsFunc(splits, hasRelay) {
		classes = append(classes, classSampledOut)
	}
	c := chain{name: exitChain, hook: &hook{name: hookPostrouting, priority: priorityMasquerade}}
	for _, class := range classes {
		c.rules = append(c.rules, rule{statements: []statement{
			marked{mask: settings.ClassMask(), value: settings.mark(class)}, masquerade{},
		}})
	}
	return c
}

// splitChains are the chains of one split, each after those that it leads to.
func splitChains(s traffic.Split, settings Settings, version int) []chain {
	chains := append(backendChains(s, settings), relayChains(s, settings)...)
	target := backendChain(s.Name, traffic.RolePrimary, s.Primary.Name)
	if draws(s) {
		v := versionRules(s, settings, version)
		chains = append(chains, v)
		target = v.name
	}
	return append(chains, chain{name: trampolineChain(s.Name), rules: []rule{trampolineRule(target, s.Generation, false)}})
}

// draws says whether any new flow can go to a candidate or to a relay.
func draws(s traffic.Split) bool {
	return samples(s) || slices.ContainsFunc(s.Candidates, func(c traffic.Backend) bool {
		return c.Weight > 0 || !c.Closed && len(c.Clients.Always) > 0
	})
}

// trampolineRule is the only rule of a split that a change of weight replaces.
// It owns no set, so replacing it is atomic for every packet.
func trampolineRule(target string, g traffic.Generation, forced bool) rule {
	return rule{statements: []statement{goTo(target)}, comment: generationComment(g, forced)}
}

// versionRules are one version of a split: its generation, the clients that are
// never split because they are backends themselves, the groups that always go
// to a candidate, and the draw.
func versionRules(s traffic.Split, settings Settings, version int) chain {
	primary := backendChain(s.Name, traffic.RolePrimary, s.Primary.Name)
	c := chain{name: versionChain(s.Name, version)}
	add := func(statements ...statement) { c.rules = append(c.rules, rule{statements: statements}) }
	add(markFlow{keep: ^settings.generationMask(), value: settings.generationMark(s.Generation)})
	for _, ip := range backendAddresses(s) {
		add(source{ip: ip}, goTo(primary))
	}
	for _, candidate := range s.Candidates {
		if candidate.Closed {
			continue
		}
		for _, g := range candidateGroups(s, candidate, groupAlways, candidate.Clients.Always) {
			for _, set := range g.sets() {
				add(member{set: set}, goTo(backendChain(s.Name, traffic.RoleCandidate, candidate.Name)))
			}
		}
	}
	if samples(s) {
		c.rules = append(c.rules, sampleRules(s)...)
		return c
	}
	for _, by := range lots(s, s.Seed()) {
		add(draw{by: by, shares: drawShares(s)})
	}
	return c
}

// drawShares covers the whole draw: the candidates' slots, and the primary
// between them.
func drawShares(s traffic.Split) []share {
	primary := backendChain(s.Name, traffic.RolePrimary, s.Primary.Name)
	var shares []share
	next := traffic.Weight(0)
	give := func(end traffic.Weight, to string) {
		if end > next {
			shares = append(shares, share{first: uint32(next), last: uint32(end - 1), chain: to})
			next = end
		}
	}
	for _, slot := range s.Layout() {
		give(slot.First, primary)
		give(slot.Last+1, backendChain(s.Name, traffic.RoleCandidate, slot.Candidate))
	}
	give(traffic.Whole, primary)
	return shares
}

// lots are what the draws of a split are made by: one for all packets without
// affinity, one for each family of the service with it.
func lots(s traffic.Split, seed uint32) []lot {
	if s.Affinity != traffic.AffinitySource {
		return []lot{{}}
	}
	var all []lot
	for _, six := range []bool{false, true} {
		if serves(s, six) {
			all = append(all, clientLot(s, six, seed))
		}
	}
	return all
}

// clientLot hashes the client's network.
func clientLot(s traffic.Split, six bool, seed uint32) lot {
	if six {
		return lot{prefix: s.AffinityPrefix.IPv6, six: true, seed: seed}
	}
	return lot{prefix: s.AffinityPrefix.IPv4, seed: seed}
}

// backendAddresses are the addresses of all backends, of the families that the
// service has.
func backendAddresses(s traffic.Split) []netip.Addr {
	var all []netip.Addr
	for _, b := range s.Backends() {
		for _, a := range b.Addresses {
			if serves(s, a.IP.Is6()) && !slices.Contains(all, a.IP) {
				all = append(all, a.IP)
			}
		}
	}
	return all
}

// nameOf takes the name of a chain of ours apart. Names of splits and backends
// hold no slash (traffic.CheckName).
func nameOf(chain string) (split, kind, rest string) {
	parts := strings.SplitN(strings.TrimPrefix(chain, splitPrefix), "/", 3)
	if !strings.HasPrefix(chain, splitPrefix) {
		return "", "", ""
	}
	for len(parts) < 3 {
		parts = append(parts, "")
	}
	return parts[0], parts[1], parts[2]
}
