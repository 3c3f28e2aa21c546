package configs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// networksMax is what one list of client networks can have at most.
const networksMax = 100_000

// member is a network of a group and where it stands.
type member struct {
	network netip.Prefix
	at      spot
	// list tells the lists of one split apart, owner their candidates.
	list, owner int
}

// readClients reads the groups of the candidate with that number.
func (b *backendDraft) readClients(t *table, candidate int) {
	read := func(key string, list int) []netip.Prefix {
		v, ok := t.take(key)
		if !ok {
			return nil
		}
		var networks []netip.Prefix
		eachOrNone(v, networksMax, func(item value) bool {
			network, ok := parsed(item, parseNetwork)
			if ok {
				networks = append(networks, network)
				b.members = append(b.members, member{network, item.spot, 2*candidate + list, candidate})
			}
			return ok
		})
		return networks
	}
	b.backend.Clients = traffic.Clients{Always: read("always", 0), Never: read("never", 1)}
}

// always says whether m stands in the list of those who always go there.
func (m member) always() bool { return m.list%2 == 0 }

// parseNetwork reads a network of clients, or the address of one.
func parseNetwork(text string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(text)
	if err != nil {
		if _, err := netip.ParseAddr(text); err != nil {
			return netip.Prefix{}, fmt.Errorf("%w, or a network such as 198.51.100.0/24", notAnAddress(text))
		}
		ip, err := parseIP(text)
		return netip.PrefixFrom(ip, ip.BitLen()), err
	}
	if err := checkIP(network.Addr()); err != nil {
		return netip.Prefix{}, err
	}
	if whole := network.Masked(); whole != network {
		return netip.Prefix{}, fmt.Errorf("%s has bits of a host: write %s, or %s for that one address", text, whole, network.Addr())
	}
	return network, nil
}

// judgeGroups refuses networks that overlap where both cannot hold: in one
// list, in always and never of one candidate, and in always of two candidates.
func (d *draft) judgeGroups() {
	var always []member
	for _, b := range d.backends {
		overlaps(b.members, func(later, first member) {
			switch {
			case later.list == first.list && later.network == first.network:
				later.at.refuse("%s is there already: %s", later.network, first.at)
			case later.list == first.list:
				later.at.refuse("%s overlaps %s: %s", later.network, first.network, first.at)
			default:
				later.at.refuse("%s cannot always and never go to %q: %s stands at %s", later.network, b.backend.Name, first.network, first.at)
			}
		})
		for _, m := range b.members {
			if m.always() {
				always = append(always, m)
			}
		}
	}
	overlaps(always, func(later, first member) {
		if later.owner != first.owner {
			later.at.refuse("%s cannot always go to two candidates: %s stands at %s", later.network, first.network, first.at)
		}
	})
}

// overlaps tells of each network that overlaps another one. Two networks
// overlap only when one holds the other, so in the order of addresses, wider
// ones first, each is compared with the narrowest one before it that holds it.
func overlaps(members []member, tell func(later, first member)) {
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		a, b := members[i].network, members[j].network
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()), cmp.Compare(i, j))
	})
	var holders []int // each holds those after it
	for _, i := range order {
		for len(holders) > 0 && !members[holders[len(holders)-1]].network.Contains(members[i].network.Addr()) {
			holders = holders[:len(holders)-1]
		}
		if n := len(holders); n > 0 {
			tell(members[max(holders[n-1], i)], members[min(holders[n-1], i)])
		}
		holders = append(holders, i)
	}
}
