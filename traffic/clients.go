package traffic

import (
	"net/netip"
	"slices"
)

// Exceeds says whether c gives a candidate a client that other does not: one
// that always goes there, or one that no longer never does.
func (c Clients) Exceeds(other Clients) bool {
	return !covered(c.Always, other.Always) || !covered(other.Never, c.Never)
}

// Within returns c without those clients that other does not give: what both
// let always go there, and what either lets never. Lists that need no change
// stay as they are.
func (c Clients) Within(other Clients) Clients {
	if !covered(c.Always, other.Always) {
		mine, theirs := joined(c.Always), joined(other.Always)
		c.Always = joined(slices.Concat(inside(mine, theirs), inside(theirs, mine)))
	}
	if !covered(other.Never, c.Never) {
		c.Never = joined(slices.Concat(c.Never, other.Never))
	}
	return c
}

// covered says whether every address of some networks is in others.
func covered(some, others []netip.Prefix) bool {
	return slices.Equal(some, others) || len(inside(some, joined(others))) == len(some)
}

// inside are those of the networks that are whole in others, which are joined.
func inside(networks, others []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range networks {
		i, found := slices.BinarySearchFunc(others, n, netip.Prefix.Compare)
		if found || i > 0 && holds(others[i-1], n) {
			all = append(all, n)
		}
	}
	return all
}

func holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// joined lists the fewest networks that have the same addresses, in order.
func joined(networks []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range slices.SortedFunc(slices.Values(networks), netip.Prefix.Compare) {
		if last := len(all) - 1; last >= 0 && holds(all[last], n) {
			continue
		}
		all = append(all, n.Masked())
		for last := len(all) - 1; last > 0 && siblings(all[last-1], all[last]); last-- {
			all = append(all[:last-1], parent(all[last]))
		}
	}
	return all
}

// Networks are client networks that can be asked for a client quickly, however
// many they are. They do not change.
type Networks struct{ ordered []netip.Prefix } // apart from each other

// NewNetworks makes those of a list in any order.
func NewNetworks(list []netip.Prefix) Networks { return Networks{joined(list)} }

// Contain says whether the client is in one of them.
func (n Networks) Contain(client netip.Addr) bool {
	next, first := slices.BinarySearchFunc(n.ordered, client, func(p netip.Prefix, ip netip.Addr) int { return p.Addr().Compare(ip) })
	return first || next > 0 && n.ordered[next-1].Contains(client)
}

func parent(n netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(n.Addr(), n.Bits()-1).Masked()
}

// siblings says whether two networks are the halves of one.
func siblings(a, b netip.Prefix) bool {
	return a.Bits() == b.Bits() && a.Bits() > 0 && a != b && a.Addr().Is4() == b.Addr().Is4() && parent(a) == parent(b)
}
