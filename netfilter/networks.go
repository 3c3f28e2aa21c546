package netfilter

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// A move is what one transaction does to the networks of a set.
type move struct{ remove, add []network }

func (m move) size() int { return len(m.remove) + len(m.add) }

// operations are those of one transaction: what goes makes room for what comes.
func (m move) operations(group string) []operation {
	var all []operation
	if len(m.remove) > 0 {
		all = append(all, removeNetworks{group: group, networks: m.remove})
	}
	if len(m.add) > 0 {
		all = append(all, addNetworks{group: group, networks: m.add})
	}
	return all
}

// A setName names the set of a group.
type setName struct{ table, group string }

// shrinks is the set that a step takes networks from, if it does.
func shrinks(s step) setName {
	if removed, ok := s.operation.(removeNetworks); ok {
		return setName{s.table, removed.group}
	}
	return setName{}
}

// networksMost is how many networks one move takes and gives: as many as the
// smallest transaction has room for.
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

// networkMoves brings a set from one list of networks to the other, both in
// order and apart from each other, in moves of at most so many networks. Who
// is in both lists is in the set after each of them, and who is in neither is
// not: a network that becomes several, or one of several, would else be out for
// a moment, because the kernel takes none that overlaps another, so that the
// old one has to go before the new ones can come.
func networkMoves(remove, add []network, most int) []move {
	var moves []move
	var some move
	for len(remove)+len(add) > 0 {
		var overlapping move
		overlapping, remove, add = cutOverlapping(remove, add)
		if some.size()+overlapping.size() > most && some.size() > 0 {
			moves = append(moves, some)
			some = move{}
		}
		if overlapping.size() > most {
			moves = append(moves, overlapping.bySteps(most)...)
			continue
		}
		some.remove = append(some.remove, overlapping.remove...)
		some.add = append(some.add, overlapping.add...)
	}
	if some.size() > 0 {
		moves = append(moves, some)
	}
	return moves
}

// cutOverlapping takes the first network of both lists and all that hang
// together with it, each overlapping one of the other list.
func cutOverlapping(remove, add []network) (first move, restRemove, restAdd []network) {
	var reach network // the one of them that ends last
	i, j := 0, 0
	for {
		list, at := remove, &i
		if i == len(remove) || j < len(add) && add[j].first < remove[i].first {
			list, at = add, &j
		}
		if *at == len(list) || i+j > 0 && reach.before(list[*at]) {
			return move{remove: remove[:i], add: add[:j]}, remove[i:], add[j:]
		}
		if i+j == 0 || reach.endsBefore(list[*at]) {
			reach = list[*at]
		}
		*at++
	}
}

// bySteps does what is too much for one move: the networks that go are cut to
// what both lists have in common, and that grows to the ones that come.
func (m move) bySteps(most int) []move {
	common := intersections(m.remove, m.add)
	var moves []move
	for _, whole := range m.remove {
		moves = append(moves, cuts(whole, within(common, whole), most)...)
	}
	for _, whole := range m.add {
		growth := cuts(whole, within(common, whole), most)
		for _, c := range slices.Backward(growth) {
			moves = append(moves, move{remove: c.add, add: c.remove})
		}
	}
	return moves
}

// cuts replaces a network by parts of it, by way of bigger parts where they are
// too many for one move.
func cuts(whole network, parts []network, most int) []move {
	if len(parts) == 1 && parts[0] == whole {
		return nil
	}
	if 1+len(parts) <= most {
		return []move{{remove: []network{whole}, add: parts}}
	}
	var bigger []network
	var later []move
	for some := range slices.Chunk(parts, most-1) {
		span := network{first: some[0].first, end: some[len(some)-1].end}
		bigger = append(bigger, span)
		later = append(later, cuts(span, some, most)...)
	}
	return append(cuts(whole, bigger, most), later...)
}

// intersections are the addresses that are in both lists, in order.
func intersections(a, b []network) []network {
	var both []network
	for len(a) > 0 && len(b) > 0 {
		n := network{first: max(a[0].first, b[0].first), end: a[0].end}
		if b[0].endsBefore(a[0]) {
			n.end = b[0].end
		}
		if n.end == "" || n.first < n.end {
			both = append(both, n)
		}
		if a[0].endsBefore(b[0]) {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return both
}

// within are those of the networks, which are in order, that lie in one that
// overlaps no other.
func within(networks []network, whole network) []network {
	from, _ := slices.BinarySearchFunc(networks, whole, func(n, whole network) int {
		if n.before(whole) {
			return -1
		}
		return 1
	})
	networks = networks[from:]
	to, _ := slices.BinarySearchFunc(networks, whole, func(n, whole network) int {
		if whole.before(n) {
			return 1
		}
		return -1
	})
	return networks[:to]
}

// prefixesOf are networks as configurations write them, in order.
func prefixesOf(networks map[network]bool) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range slices.SortedFunc(maps.Keys(networks), network.compare) {
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
