package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// A group are client networks of one family: those that always or never go to a
// candidate. They change without touching a rule. Each is in one of two sets,
// of which a client may be in either: a set takes no network that overlaps
// another, and with two of them the new ones come before the old ones go.
type group struct {
	name     string         // of its first set
	networks []netip.Prefix // sorted, apart from each other
}

// sets are the names of the two sets.
func (g group) sets() [2]string { return [2]string{g.name, g.name + secondSet} }

const secondSet = "/2"

// The kinds of groups.
const (
	groupAlways = "always"
	groupNever  = "never"
)

// groupName is split/mx/candidate/new/always4.
func groupName(split, candidate, kind string, six bool) string {
	family := "4"
	if six {
		family = "6"
	}
	return backendChain(split, traffic.RoleCandidate, candidate) + "/" + kind + family
}

// groupIs6 says whether a set of a group is of IPv6.
func groupIs6(set string) bool { return strings.HasSuffix(strings.TrimSuffix(set, secondSet), "6") }

// groups are the groups of a split that have networks of a family that its
// service has.
func groups(s traffic.Split) []group {
	var all []group
	for _, c := range s.Candidates {
		all = append(all, candidateGroups(s, c, groupAlways, c.Clients.Always)...)
		all = append(all, candidateGroups(s, c, groupNever, c.Clients.Never)...)
	}
	return all
}

func candidateGroups(s traffic.Split, c traffic.Backend, kind string, networks []netip.Prefix) []group {
	var all []group
	for _, six := range []bool{false, true} {
		g := group{name: groupName(s.Name, c.Name, kind, six)}
		for _, n := range networks {
			if n.Addr().Is6() == six {
				g.networks = append(g.networks, n.Masked())
			}
		}
		if len(g.networks) > 0 && serves(s, six) {
			slices.SortFunc(g.networks, netip.Prefix.Compare)
			all = append(all, g)
		}
	}
	return all
}

// serves says whether the service of the split has an address of the family.
func serves(s traffic.Split, six bool) bool {
	return slices.ContainsFunc(s.Service.Addresses, func(ip netip.Addr) bool { return ip.Is6() == six })
}

// text lists the networks as nft 1.0.6 does: two a line for IPv4, one for IPv6.
// All stand in the first set.
func (g group) text() string {
	kind, row := "ipv4_addr", 2
	if groupIs6(g.name) {
		kind, row = "ipv6_addr", 1
	}
	const set = "\tset %s {\n\t\ttype %s\n\t\tflags interval\n"
	var b strings.Builder
	fmt.Fprintf(&b, set+"\t\telements = { ", g.sets()[0], kind)
	for i, n := range g.networks {
		switch {
		case i == 0:
		case i%row == 0:
			b.WriteString(",\n\t\t\t     ")
		default:
			b.WriteString(", ")
		}
		if n.IsSingleIP() {
			b.WriteString(n.Addr().String())
		} else {
			b.WriteString(n.String())
		}
	}
	b.WriteString(" }\n\t}\n\n")
	fmt.Fprintf(&b, set+"\t}\n\n", g.sets()[1], kind)
	return b.String()
}

// A network is a run of addresses as the kernel keeps it in an interval set:
// from its first address up to the one after its last, which is "" at the end
// of all addresses. Two are equal when they are the same run.
type network struct{ first, end string }

func networksOf(prefixes []netip.Prefix) []network {
	all := make([]network, 0, len(prefixes))
	for _, p := range prefixes {
		all = append(all, networkOf(p))
	}
	return all
}

func networkOf(p netip.Prefix) network {
	first := p.Masked().Addr().AsSlice()
	last := slices.Clone(first)
	for bit := p.Bits(); bit < 8*len(last); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	ip, _ := netip.AddrFromSlice(last)
	return network{first: string(first), end: string(ip.Next().AsSlice())}
}

// text is the run as people write it.
func (n network) text() string {
	first, _ := netip.AddrFromSlice([]byte(n.first))
	end, ok := netip.AddrFromSlice([]byte(n.end))
	if !ok {
		return first.String() + "-"
	}
	return first.String() + "-" + end.Prev().String()
}
