package configs

import (
	"net/netip"
	"slices"
	"sort"

	"github.com/splitd/splitd/traffic"
)

// claims are the services of the splits so far, so that each further one is
// compared with those at its own addresses alone.
type claims struct {
	exact     map[endpoint]runs
	wildcards map[traffic.Transport]runs
	all       map[traffic.Transport]runs
}

type endpoint struct {
	ip        netip.Addr
	transport traffic.Transport
}

// A claim is a port, or a run of ports, of a split.
type claim struct {
	split string
	port  traffic.Port
	at    spot
}

func newClaims() *claims {
	return &claims{map[endpoint]runs{}, map[traffic.Transport]runs{}, map[traffic.Transport]runs{}}
}

// claim enters the service of d, and refuses each of its addresses that
// another split has at one of its ports. A wildcard of mode proxy has them all.
func (c *claims) claim(d *draft) {
	for i, ip := range d.split.Service.Addresses {
		for _, port := range d.split.Service.Ports {
			owner, taken := c.owner(ip, port, d)
			if !taken {
				continue
			}
			if owner.port == port {
				d.addresses[i].refuse("%s at %s belongs to split %q already: %s", port, ip, owner.split, owner.at)
			} else {
				d.addresses[i].refuse("%s at %s overlaps %s of split %q: %s", port, ip, owner.port, owner.split, owner.at)
			}
			break
		}
	}
	for i, ip := range d.split.Service.Addresses {
		for _, port := range d.split.Service.Ports {
			mine := &claim{d.split.Name, port, d.addresses[i]}
			enter(c.exact, endpoint{ip, port.Transport}, mine)
			enter(c.all, port.Transport, mine)
			if d.wild(ip) {
				enter(c.wildcards, port.Transport, mine)
			}
		}
	}
}

func (c *claims) owner(ip netip.Addr, port traffic.Port, d *draft) (*claim, bool) {
	if d.wild(ip) {
		return c.all[port.Transport].owner(port)
	}
	if owner, taken := c.exact[endpoint{ip, port.Transport}].owner(port); taken {
		return owner, true
	}
	return c.wildcards[port.Transport].owner(port)
}

func (d *draft) wild(ip netip.Addr) bool {
	return ip.IsUnspecified() && (d.split.Mode == traffic.ModeProxy || d.split.Mode == modeUnknown)
}

func enter[K comparable](owners map[K]runs, key K, mine *claim) {
	owners[key] = owners[key].with(mine)
}

// runs are the owners of ports, in ascending order and apart from each other.
type runs []run

type run struct {
	first, last int
	owner       *claim
}

// from is the index of the first run that ends at number or later.
func (r runs) from(number int) int {
	return sort.Search(len(r), func(i int) bool { return r[i].last >= number })
}

// owner returns who has the lowest of the ports that somebody has.
func (r runs) owner(port traffic.Port) (*claim, bool) {
	i := r.from(int(port.Number))
	if i == len(r) || r[i].first > int(port.End()) {
		return nil, false
	}
	return r[i].owner, true
}

// with gives the owner those of its ports that nobody has.
func (r runs) with(owner *claim) runs {
	next, end := int(owner.port.Number), int(owner.port.End())
	for i := r.from(next); next <= end; i++ {
		if i == len(r) || r[i].first > next {
			gap := run{next, end, owner}
			if i < len(r) {
				gap.last = min(end, r[i].first-1)
			}
			r = slices.Insert(r, i, gap)
		}
		next = r[i].last + 1
	}
	return r
}
