package netfilter

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// A leg is a relay's own flow to a backend. Where a split in mode proxy is
// transparent, its legs have the client's address, to which the replies are
// addressed: the table here has conntrack know legs by the mark of their
// sockets, and gives replies a mark by which an ip rule leads them into a route
// table where every address is this host's own. That goes for replies that come
// in and for those of servers on this host.
const (
	// TableLegs is there while a split is transparent, and as long after that as
	// legs are open.
	TableLegs       = "splitd_legs"
	chainLegReplies = "replies"
	chainLegs       = "legs"
	// legPriority is behind the rule that all replies need (divertPriority).
	legPriority = divertPriority + 1
)

// legs are what relays' own flows need in the kernel. A nil one is nothing.
type legs struct {
	// rules are for servers at IPv4 loopback addresses: the kernel finds no way
	// from there to a client before any mark can be set (__mkroute_output in
	// net/ipv4/route.c, unless route_localnet is on). So a rule has to tell by
	// address and port what only answers to legs can be.
	rules []ipRule
}

// legsOf are what the splits need, whose legs may be open at any weight.
func legsOf(splits []traffic.Split, settings Settings) *legs {
	var l *legs
	for i := range splits {
		if splits[i].Transparent() {
			l = l.with(&legs{rules: loopbackRules(splits[i], settings)})
		}
	}
	return l
}

func loopbackRules(s traffic.Split, settings Settings) []ipRule {
	if !serves(s, false) {
		return nil
	}
	var rules []ipRule
	add := func(ip netip.Addr, port uint16) {
		if ip.Is4() && ip.IsLoopback() {
			rules = append(rules, ipRule{
				priority: settings.RulePriority + legPriority, family: unix.AF_INET,
				from: ip, sport: port, table: settings.RouteTable + divertTable,
			})
		}
	}
	for _, b := range s.Backends() {
		for _, p := range s.Service.Ports {
			if b.Local {
				add(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Number)
			}
			for _, a := range b.Addresses {
				add(a.IP, cmp.Or(a.Port, p.Number))
			}
		}
	}
	return sortedSet(rules, compareRules)
}

// with is what both need.
func (l *legs) with(other *legs) *legs {
	switch {
	case l == nil:
		return other
	case other == nil:
		return l
	}
	return &legs{rules: sortedSet(slices.Concat(l.rules, other.rules), compareRules)}
}

func (l *legs) equal(other *legs) bool {
	return (l == nil) == (other == nil) && (l == nil || slices.Equal(l.rules, other.rules))
}

// of is what of l the flows to these addresses need.
func (l *legs) of(open []netip.AddrPort) *legs {
	if l == nil || len(open) == 0 {
		return nil
	}
	return &legs{rules: slices.DeleteFunc(slices.Clone(l.rules), func(r ipRule) bool {
		return !slices.Contains(open, netip.AddrPortFrom(r.from, r.sport))
	})}
}

// table is the one of legs, which is not wanted without any.
func (l *legs) table(settings Settings) wholeTable {
	t := wholeTable{name: TableLegs, family: nftables.TableFamilyINet}
	if l == nil {
		return t
	}
	noted, reply := settings.legRules()
	t.chains = []chain{
		{name: chainLegReplies, hook: &hook{kind: kindFilter, name: hookPrerouting, priority: priorityLegs}, rules: []rule{reply}},
		{name: chainLegs, hook: &hook{kind: kindRoute, name: hookOutput, priority: priorityLegs}, rules: []rule{noted, reply}},
	}
	return t
}

// legRules have conntrack know a relay's own flows, and give the replies of
// those the mark of what this host takes.
func (s Settings) legRules() (noted, reply rule) {
	leg := packetMarked{mask: s.ClassMask(), value: s.LegMark()}
	noted = rule{statements: []statement{leg, markFlow{keep: s.keep(), value: s.mark(classLeg)}}}
	known := marked{mask: s.ClassMask(), value: s.mark(classLeg)}
	reply = rule{statements: []statement{known, direction{reply: true}, s.markDiverted()}}
	return noted, reply
}

// withLegs adds the ip rules and routes of legs.
func (r Returns) withLegs(l *legs) Returns {
	if l == nil {
		return r
	}
	r.rules, r.routes = slices.Concat(r.rules, l.rules), slices.Clone(r.routes)
	r.divert(unix.AF_INET)
	r.divert(unix.AF_INET6)
	r.rules = sortedSet(r.rules, compareRules)
	r.routes = sortedSet(r.routes, compareRoutes)
	return r
}
