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
	chainAbout    = "about"
	chainDispatch = "dispatch"
	entranceChain = "prerouting"
	exitChain     = "postrouting"
	splitPrefix   = "split/"
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
	return build(splits, settings, nil)
}

// build gives each split the version number named in versions, 1 if none is.
// Without splits it makes the bare table, which keeps the flows of splits that
// were removed alive.
func build(splits []traffic.Split, settings Settings, versions map[string]int) Ruleset {
	r := Ruleset{chains: []chain{aboutChain("")}}
	masquerades := false
	for _, s := range traffic.SortSplits(splits) {
		for _, b := range s.Backends() {
			r.counters = append(r.counters, counterName(s.Name, b.Name))
		}
		r.elements = append(r.elements, elements(s)...)
		r.chains = append(r.chains, splitChains(s, settings, max(versions[s.Name], 1))...)
		masquerades = masquerades || s.Return == traffic.ReturnMasquerade
	}
	r.chains = append(r.chains, dispatchChain())
	if masquerades {
		r.chains = append(r.chains, masqueradeChain(settings))
	}
	r.chains = append(r.chains, chain{
		name:  entranceChain,
		hook:  &hook{name: hookPrerouting, priority: prioritySplit},
		rules: []rule{{statements: []statement{jumpTo(chainDispatch)}}},
	})
	return r
}

func dispatchChain() chain {
	return chain{name: chainDispatch, rules: []rule{
		{statements: []statement{notSyn{}, back()}},
		{statements: []statement{dispatch{services: services4}}},
		{statements: []statement{dispatch{services: services6}}},
	}}
}

func masqueradeChain(settings Settings) chain {
	return chain{
		name: exitChain,
		hook: &hook{name: hookPostrouting, priority: priorityMasquerade},
		rules: []rule{{statements: []statement{
			marked{mask: settings.MarkMask, value: settings.mark(classMasquerade)}, masquerade{},
		}}},
	}
}

func elements(s traffic.Split) []element {
	var all []element
	for _, ip := range s.Service.Addresses {
		for _, port := range s.Service.Ports {
			all = append(all, element{service: service{ip: ip, port: port}, chain: trampolineChain(s.Name)})
		}
	}
	return all
}

// splitChains are the chains of one split, each after those that it leads to.
func splitChains(s traffic.Split, settings Settings, version int) []chain {
	chains := []chain{backendRules(s, s.Primary, traffic.RolePrimary, settings)}
	for _, c := range s.Candidates {
		chains = append(chains, backendRules(s, c, traffic.RoleCandidate, settings))
	}
	target := backendChain(s.Name, traffic.RolePrimary, s.Primary.Name)
	if s.CandidateWeight() > 0 {
		v := drawRules(s, version)
		chains = append(chains, v)
		target = v.name
	}
	return append(chains, chain{name: trampolineChain(s.Name), rules: []rule{trampolineRule(target, s.Generation, false)}})
}

// trampolineRule is the only rule of a split that a change of weight replaces.
// It owns no set, so replacing it is atomic for every packet.
func trampolineRule(target string, g traffic.Generation, forced bool) rule {
	return rule{statements: []statement{goTo(target)}, comment: generationComment(g, forced)}
}

// drawRules is one version of a split: its weights, and the clients that are
// never split because they are backends themselves.
func drawRules(s traffic.Split, version int) chain {
	primary := backendChain(s.Name, traffic.RolePrimary, s.Primary.Name)
	c := chain{name: versionChain(s.Name, version)}
	for _, ip := range backendAddresses(s) {
		c.rules = append(c.rules, rule{statements: []statement{source{ip: ip}, goTo(primary)}})
	}
	var shares []share
	next := traffic.Weight(0)
	give := func(w traffic.Weight, to string) {
		if w > 0 {
			shares = append(shares, share{first: uint32(next), last: uint32(next + w - 1), chain: to})
			next += w
		}
	}
	for _, b := range s.Candidates {
		give(b.Weight, backendChain(s.Name, traffic.RoleCandidate, b.Name))
	}
	give(s.PrimaryWeight(), primary)
	c.rules = append(c.rules, rule{statements: []statement{draw{shares: shares}}})
	return c
}

// backendAddresses are the addresses of all backends, of the families that the
// service has.
func backendAddresses(s traffic.Split) []netip.Addr {
	var all []netip.Addr
	for _, b := range s.Backends() {
		for _, a := range b.Addresses {
			served := slices.ContainsFunc(s.Service.Addresses, func(ip netip.Addr) bool { return ip.Is4() == a.IP.Is4() })
			if served && !slices.Contains(all, a.IP) {
				all = append(all, a.IP)
			}
		}
	}
	return all
}

// backendRules count a flow that was drawn for the backend and send it there,
// or accept it where it is to stay.
func backendRules(s traffic.Split, b traffic.Backend, role traffic.Role, settings Settings) chain {
	c := chain{name: backendChain(s.Name, role, b.Name)}
	counted := count{name: counterName(s.Name, b.Name)}
	stays, all := staying(s, b)
	if all {
		c.rules = []rule{{statements: []statement{counted, accept()}}}
		return c
	}
	class := classRemote
	if s.Return == traffic.ReturnMasquerade {
		class = classMasquerade
	}
	mark := markFlow{keep: settings.keep(), value: settings.mark(class)}
	if len(stays) == 0 {
		c.rules = append(c.rules, rule{statements: []statement{counted, mark}})
	} else {
		c.rules = append(c.rules, rule{statements: []statement{counted}})
		c.rules = append(c.rules, stays...)
		c.rules = append(c.rules, rule{statements: []statement{mark}})
	}
	for _, a := range b.Addresses {
		c.rules = append(c.rules, translation(s, a)...)
	}
	return c
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

// translation sends what clients ask for at an address of the backend's family
// to that address. A changed port needs a rule per transport.
func translation(s traffic.Split, to traffic.Address) []rule {
	if !slices.ContainsFunc(s.Service.Addresses, func(ip netip.Addr) bool { return ip.Is4() == to.IP.Is4() }) {
		return nil
	}
	action := translate{to: to.IP, port: to.Port}
	if to.Port == 0 {
		return []rule{{statements: []statement{action}}}
	}
	var rules []rule
	for _, t := range []traffic.Transport{traffic.TCP, traffic.UDP} {
		if slices.ContainsFunc(s.Service.Ports, func(p traffic.Port) bool { return p.Transport == t }) {
			rules = append(rules, rule{statements: []statement{transport{name: t}, action}})
		}
	}
	return rules
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
