package netfilter

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// backendChains are the chains of the backends of a split, the primary first,
// and that of the primary's flows that a relay gets.
// They own no sets, so the rules of each can be replaced in one step.
func backendChains(s traffic.Split, settings Settings) []chain {
	chains := []chain{{
		name:  backendChain(s.Name, traffic.RolePrimary, s.Primary.Name),
		rules: backendRules(s, s.Primary, sentClass(s), settings),
	}}
	for _, b := range s.Candidates {
		chains = append(chains, chain{
			name:  backendChain(s.Name, traffic.RoleCandidate, b.Name),
			rules: append(gate(s, b), backendRules(s, b, sentClass(s), settings)...),
		})
	}
	if hasRelay(s) {
		chains = append(chains, chain{name: sampledChain(s.Name), rules: backendRules(s, s.Primary, sampledClass(s), settings)})
	}
	return chains
}

// The comments of gates.
const (
	commentClosed = "closed"
	commentDown   = "down"
)

// gate sends those flows that were drawn for a candidate to the primary that
// it must not have: all when it is closed, those of a family in which it is
// down, and those of its groups. The weights stay as they are, so that clients
// come back to their side when it opens again.
func gate(s traffic.Split, b traffic.Backend) []rule {
	primary := goTo(backendChain(s.Name, traffic.RolePrimary, s.Primary.Name))
	if b.Closed {
		return []rule{{statements: []statement{primary}, comment: commentClosed}}
	}
	var rules []rule
	for _, six := range []bool{false, true} {
		if serves(s, six) && withdrawn(b, six) {
			rules = append(rules, rule{statements: []statement{addressed{six: six}, primary}, comment: commentDown})
		}
	}
	for _, g := range candidateGroups(s, b, groupNever, b.Clients.Never) {
		for _, set := range g.sets() {
			rules = append(rules, rule{statements: []statement{member{set: set}, primary}})
		}
	}
	return rules
}

// withdrawn says whether every address of the family is down. Of a local
// backend that is any of this host.
func withdrawn(b traffic.Backend, six bool) bool {
	if b.Local {
		return slices.ContainsFunc(b.Down, func(ip netip.Addr) bool { return ip.Is6() == six })
	}
	ofFamily := func(a traffic.Address) bool { return a.IP.Is6() == six }
	return slices.ContainsFunc(b.Addresses, ofFamily) &&
		!slices.ContainsFunc(b.Addresses, func(a traffic.Address) bool { return ofFamily(a) && !slices.Contains(b.Down, a.IP) })
}

// sentClass is the class of the flows that are sent elsewhere.
func sentClass(s traffic.Split) markClass {
	if s.Return == traffic.ReturnMasquerade {
		return classMasquerade
	}
	return classRemote
}

// backendRules count a flow that was drawn for the backend and send it there,
// or accept it where it is to stay. What is sent elsewhere gets the class, and
// what a relay gets in any case.
func backendRules(s traffic.Split, b traffic.Backend, class markClass, settings Settings) []rule {
	var rules []rule
	add := func(statements ...statement) { rules = append(rules, rule{statements: statements}) }
	if s.UDPTimeout > 0 {
		add(setTimeout{name: timeout{split: s.Name, answered: s.UDPTimeout}.name()})
	}
	counted := count{name: counterName(s.Name, b.Name)}
	mark := markFlow{keep: settings.keep(), value: settings.mark(class)}
	stays, all := staying(s, b)
	switch sampled := class == sampledClass(s); {
	case all && sampled:
		add(counted, mark, accept())
		return rules
	case all:
		add(counted, accept())
		return rules
	case sampled || len(stays) == 0:
		add(counted, mark)
		rules = append(rules, stays...)
	default:
		add(counted)
		rules = append(rules, stays...)
		add(mark)
	}
	for _, six := range []bool{false, true} {
		if serves(s, six) {
			rules = append(rules, translations(s, b, six)...)
		}
	}
	return rules
}

// staying are the rules that accept what is not sent elsewhere; all says that
// this is everything.
func staying(s traffic.Split, b traffic.Backend) (rules []rule, all bool) {
	all = true
	for _, ip := range s.Service.Addresses {
		var ports []traffic.Port
		for _, p := range s.Service.Ports {
			if s.StaysHere(b, ip, p.Number) {
				ports = append(ports, p)
			}
		}
		if len(ports) == len(s.Service.Ports) {
			rules = append(rules, rule{statements: []statement{destination{ip: ip}, accept()}})
			continue
		}
		all = false
		for _, p := range ports {
			rules = append(rules, rule{statements: []statement{destination{ip: ip}, destinationPort{port: p}, accept()}})
		}
	}
	return rules, all
}

// translations send what clients ask for at an address of the family to one of
// the backend's living addresses of it: to the first in one of n draws, to the
// second in one of n-1 of the others, and so on. Where none lives all are used:
// of a primary, whose place nobody can take; a candidate's gate is shut.
func translations(s traffic.Split, b traffic.Backend, six bool) []rule {
	var to []traffic.Address
	for _, a := range b.Addresses {
		if a.IP.Is6() == six && (withdrawn(b, six) || !slices.Contains(b.Down, a.IP)) {
			to = append(to, a)
		}
	}
	var rules []rule
	for i, a := range to {
		var chosen []statement
		if left := len(to) - i; left > 1 {
			by := lot{}
			if s.Affinity == traffic.AffinitySource {
				by = clientLot(s, six, s.Seed()+uint32(i)+1)
			}
			chosen = append(chosen, oneIn{by: by, of: uint32(left)})
		}
		for _, t := range translation(s, a) {
			rules = append(rules, rule{statements: slices.Concat(chosen, t)})
		}
	}
	return rules
}

// translation sends a flow to the address. A changed port needs to know the
// transport.
func translation(s traffic.Split, to traffic.Address) [][]statement {
	action := translate{to: to.IP, port: to.Port}
	if to.Port == 0 {
		return [][]statement{{action}}
	}
	var all [][]statement
	for _, t := range []traffic.Transport{traffic.TCP, traffic.UDP} {
		if slices.ContainsFunc(s.Service.Ports, func(p traffic.Port) bool { return p.Transport == t }) {
			all = append(all, []statement{transport{name: t}, action})
		}
	}
	return all
}

// candidateOfGroup is the backend that a group belongs to.
func candidateOfGroup(name string) (split, candidate string) {
	split, _, rest := nameOf(name)
	candidate, _, _ = strings.Cut(rest, "/")
	return split, candidate
}
