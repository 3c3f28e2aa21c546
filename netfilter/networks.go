package netfilter

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// A setChange is what one step of a change does to one of the sets of a group:
// first what goes, then what comes.
type setChange struct{ remove, add []network }

// A regrouping brings the two sets of a group to other networks, in three steps
// of as many transactions as it takes.
type regrouping struct{ prepare, grow, shrink [2]setChange }

// networksMost is how many networks are added or removed at a time.
const networksMost = 500

// networkChanges are the networks that a set lacks and those that it should
// not have, both in order.
func networkChanges(have map[network]bool, prefixes []netip.Prefix) (add, remove []network) {
	wanted := map[network]bool{}
	for _, n := range networksOf(prefixes) {
		wanted[n] = true
		if !have[n] {
			add = append(add, n)
		}
	}
	for n := range have {
		if !wanted[n] {
			remove = append(remove, n)
		}
	}
	slices.SortFunc(add, network.compare)
	slices.SortFunc(remove, network.compare)
	return add, remove
}

// regroup plans the change of a group. Who is in it before and after is in one of
// the sets at every moment. A network that becomes several, or one of several,
// could not stay in one set: the kernel takes none that overlaps another, and
// while a transaction replaces one, kernels that walk a tree of networks find
// neither the old nor the new (6.1: 40 of 16,192 connections). So the old ones
// are brought into one set, the new ones come into the other, and then the old
// ones go.
func regroup(have [2]map[network]bool, want []netip.Prefix) regrouping {
	var all regrouping
	add, remove := networkChanges(union(have), want)
	var ordered [2][]network
	if len(remove) > 0 && len(add) > 0 {
		ordered = [2][]network{inOrder(have[0]), inOrder(have[1])}
	}
	for len(remove)+len(add) > 0 {
		var m overlap
		m, remove, add = cutOverlapping(remove, add)
		all.take(have, ordered, m)
	}
	for _, n := range networksOf(want) { // in both after an end amid a change
		if have[0][n] && have[1][n] {
			all.shrink[1].remove = append(all.shrink[1].remove, n)
		}
	}
	return all
}

// take plans for networks that overlap each other and nothing else.
func (r *regrouping) take(have [2]map[network]bool, ordered [2][]network, m overlap) {
	to := 0
	if len(standing(have[0], m.remove)) > len(standing(have[1], m.remove)) {
		to = 1
	}
	from := 1 - to
	r.grow[to].add = append(r.grow[to].add, m.add...)
	moved := standing(have[to], m.remove)
	if len(m.add) > 0 && len(moved) > 0 {
		r.grow[to].remove = append(r.grow[to].remove, moved...)
		if !slices.ContainsFunc(moved, func(n network) bool { return len(overlapping(ordered[from], n)) > 0 }) {
			r.prepare[from].add = append(r.prepare[from].add, moved...)
			r.shrink[from].remove = append(r.shrink[from].remove, moved...)
		} // else an end amid another change left both: they are out for a moment
		moved = nil
	}
	r.shrink[to].remove = append(r.shrink[to].remove, moved...)
	r.shrink[from].remove = append(r.shrink[from].remove, standing(have[from], m.remove)...)
}

// standing are those of the networks that a set has.
func standing(set map[network]bool, networks []network) []network {
	return slices.DeleteFunc(slices.Clone(networks), func(n network) bool { return !set[n] })
}

func inOrder(set map[network]bool) []network {
	return slices.SortedFunc(maps.Keys(set), network.compare)
}

func union(sets [2]map[network]bool) map[network]bool {
	all := maps.Clone(sets[0])
	if all == nil {
		all = map[network]bool{}
	}
	maps.Copy(all, sets[1])
	return all
}

// networks are those of a group, in whichever of its sets.
func (o observed) networks(g group) map[network]bool {
	return union([2]map[network]bool{o.groups[g.sets()[0]], o.groups[g.sets()[1]]})
}

// An overlap is networks of two lists that hang together.
type overlap struct{ remove, add []network }

// cutOverlapping takes the first network of both lists and all that hang
// together with it, each overlapping one of the other list.
func cutOverlapping(remove, add []network) (first overlap, restRemove, restAdd []network) {
	var reach network // the one of them that ends last
	i, j := 0, 0
	for {
		list, at := remove, &i
		if i == len(remove) || j < len(add) && add[j].first < remove[i].first {
			list, at = add, &j
		}
		if *at == len(list) || i+j > 0 && reach.before(list[*at]) {
			return overlap{remove: remove[:i], add: add[:j]}, remove[i:], add[j:]
		}
		if i+j == 0 || reach.endsBefore(list[*at]) {
			reach = list[*at]
		}
		*at++
	}
}

// overlapping are those of the networks, which are in order and apart from each
// other, that overlap another.
func overlapping(networks []network, other network) []network {
	from, _ := slices.BinarySearchFunc(networks, other, func(n, other network) int {
		if n.before(other) {
			return -1
		}
		return 1
	})
	networks = networks[from:]
	to, _ := slices.BinarySearchFunc(networks, other, func(n, other network) int {
		if other.before(n) {
			return 1
		}
		return -1
	})
	return networks[:to]
}

// prefixesOf are networks as configurations write them, in order.
func prefixesOf(networks map[network]bool) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range inOrder(networks) {
		for rest := n; rest.end == "" || rest.first < rest.end; {
			p := rest.biggest()
			all = append(all, p)
			if rest.first = networkOf(p).end; rest.first == "" {
				break
			}
		}
	}
	return all
}

// biggest is the biggest prefix with which the run begins.
func (n network) biggest() netip.Prefix {
	first, _ := netip.AddrFromSlice([]byte(n.first))
	for bits := range first.BitLen() {
		p := netip.PrefixFrom(first, bits)
		if whole := networkOf(p); p.Masked() == p && (n.end == "" || whole.end != "" && whole.end <= n.end) {
			return p
		}
	}
	return netip.PrefixFrom(first, first.BitLen())
}

func (n network) compare(other network) int { return cmp.Compare(n.first, other.first) }

// before says whether n ends where the other begins, or sooner.
func (n network) before(other network) bool { return n.end != "" && n.end <= other.first }

// endsBefore compares the ends of two networks; none is later than "".
func (n network) endsBefore(other network) bool {
	return n.end != "" && (other.end == "" || n.end < other.end)
}
