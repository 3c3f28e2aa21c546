package configs

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// judge reports what is wrong with a split as a whole. What could not be read
// has been reported, and is not held against the rest.
func (d *draft) judge() {
	d.judgeNames()
	d.judgeService()
	for i, b := range d.backends {
		d.judgeFamilies(b)
		d.judgeReach(b)
		if b.whole && !d.judgeLoop(b) {
			d.judgeTwin(b, d.backends[:i])
		}
	}
}

func (d *draft) judgeNames() {
	first := map[string]spot{}
	for _, b := range d.backends {
		name := b.backend.Name
		if name == "" {
			continue
		}
		if at, twice := first[name]; twice {
			b.name.refuse("backend %q is there already: %s", name, at)
			continue
		}
		first[name] = b.name
	}
}

func (d *draft) judgeService() {
	for i, ip := range d.split.Service.Addresses {
		at := d.addresses[i]
		for j, other := range d.split.Service.Addresses[:i] {
			switch {
			case other == ip:
				at.refuse("%s is there already: %s", ip, d.addresses[j])
			case ip.Is4() == other.Is4() && (ip.IsUnspecified() || other.IsUnspecified()):
				at.refuse("%s overlaps %s (%s): a wildcard stands for every address of its family", ip, other, d.addresses[j])
			default:
				continue
			}
			break
		}
		if ip.IsLoopback() && d.split.Mode == traffic.ModeKernel {
			at.note("unused in mode kernel: flows to %s start on this host, and those are not split", ip)
		}
		if ip.IsUnspecified() && d.split.Mode != traffic.ModeProxy {
			at.refuse("%s is a wildcard, which only mode proxy has: name the addresses, or set mode: proxy", ip)
		}
	}
	for i, port := range d.split.Service.Ports {
		if j := slices.Index(d.split.Service.Ports[:i], port); j >= 0 {
			d.ports[i].refuse("%s is there already: %s", port, d.ports[j])
		}
	}
}

// judgeFamilies checks that flows of every family of the service find an
// address of b.
func (d *draft) judgeFamilies(b backendDraft) {
	if b.backend.Local || !b.whole {
		return
	}
	missing := map[bool]bool{}
	for i, ip := range d.split.Service.Addresses {
		if _, ok := b.backend.Address(ip); !ok && !missing[ip.Is4()] {
			missing[ip.Is4()] = true
			b.at.refuse("no %s address, but the service has %s (%s)", family(ip), ip, d.addresses[i])
		}
	}
	if !d.whole {
		return
	}
	for i, a := range b.backend.Addresses {
		used := func(ip netip.Addr) bool { return ip.Is4() == a.IP.Is4() }
		if !slices.ContainsFunc(d.split.Service.Addresses, used) {
			b.addresses[i].note("unused: the service has no %s address", family(a.IP))
		}
	}
}

// judgeReach refuses what the kernel would drop: a packet from elsewhere whose
// destination became a loopback address is a martian (route_localnet in
// Documentation/networking/ip-sysctl.rst; IPv6 has no such switch).
func (d *draft) judgeReach(b backendDraft) {
	for i, a := range b.backend.Addresses {
		if a.IP.IsLoopback() && d.split.Mode == traffic.ModeKernel {
			b.addresses[i].refuse("%s is a loopback address, where mode kernel cannot send flows: "+
				"write local, or set mode: proxy", a)
		}
	}
}

// judgeLoop refuses a backend whose flows would come back to the service, and
// says whether it did.
func (d *draft) judgeLoop(b backendDraft) bool {
	for _, ip := range d.split.Service.Addresses {
		relayed := d.split.Mode != traffic.ModeKernel
		target, ok := d.target(b.backend, ip)
		meets := ok && d.portsMeet(target.Port, 0)
		switch {
		case b.backend.Local && relayed && (ip == target.IP || ip.IsUnspecified()):
			b.at.refuse("local is %s in mode %s, at the service's own port (%s listens there): "+
				"give the service an address that the local server does not hold, or name the server's address and port",
				target.IP, d.split.Mode, ip)
			return true
		case b.backend.Local:
		case !b.primary && target.IP == ip && meets:
			b.at.refuse("%s is the service's own address: a candidate needs one of its own", ip)
			return true
		case relayed && meets && (target.IP == ip || ip.IsUnspecified() && target.IP.IsLoopback()):
			b.at.refuse("%s is the service itself in mode %s, the relay would connect to itself: name where the backend listens",
				target, d.split.Mode)
			return true
		}
	}
	return false
}

// target returns where b serves flows to that service address; port 0 means
// that the client's is kept.
func (d *draft) target(b traffic.Backend, ip netip.Addr) (traffic.Address, bool) {
	switch {
	case !b.Local:
		return b.Address(ip)
	case d.split.Mode == traffic.ModeKernel:
		return traffic.Address{IP: ip}, true
	case ip.Is4():
		return traffic.Address{IP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}, true
	}
	return traffic.Address{IP: netip.IPv6Loopback()}, true
}

// portsMeet says whether two ports of backends are the same for some port of
// the service.
func (d *draft) portsMeet(a, b uint16) bool {
	if a == b {
		return true
	}
	kept := func(port traffic.Port) bool { return port.Number == a || port.Number == b }
	return (a == 0 || b == 0) && slices.ContainsFunc(d.split.Service.Ports, kept)
}

// judgeTwin refuses a backend at the address and port of one before it: their
// flows could not be told apart.
func (d *draft) judgeTwin(b backendDraft, before []backendDraft) {
	for _, other := range before {
		if at, ok := d.meet(b.backend, other.backend); other.whole && ok {
			b.at.refuse("%s is where backend %q is too (%s): their flows could not be told apart",
				at, other.backend.Name, other.at)
			return
		}
	}
}

// meet returns an address at which flows to both backends end.
func (d *draft) meet(a, b traffic.Backend) (netip.Addr, bool) {
	for _, ip := range d.split.Service.Addresses {
		first, ok1 := d.target(a, ip)
		second, ok2 := d.target(b, ip)
		if ok1 && ok2 && first.IP == second.IP && d.portsMeet(first.Port, second.Port) {
			return first.IP, true
		}
	}
	return netip.Addr{}, false
}

// judgeAll reports what is wrong between splits: names and services that meet.
func judgeAll(drafts []*draft) {
	first := map[string]spot{}
	services := newClaims()
	for _, d := range drafts {
		if name := d.split.Name; name != "" {
			if at, twice := first[name]; twice {
				d.name.refuse("split %q is there already: %s", name, at)
			} else {
				first[name] = d.name
			}
		}
		services.claim(d)
	}
}

// claims are the services of the splits so far.
type claims struct {
	exact     map[endpoint]claim
	wildcards map[traffic.Port]claim
	all       map[traffic.Port]claim
}

type endpoint struct {
	ip   netip.Addr
	port traffic.Port
}

type claim struct {
	split string
	at    spot
}

func newClaims() *claims {
	return &claims{map[endpoint]claim{}, map[traffic.Port]claim{}, map[traffic.Port]claim{}}
}

// claim enters the service of d, and refuses each of its addresses that
// another split has at one of its ports. A wildcard of mode proxy has them all.
func (c *claims) claim(d *draft) {
	for i, ip := range d.split.Service.Addresses {
		for _, port := range d.split.Service.Ports {
			if owner, taken := c.owner(ip, port, d); taken {
				d.addresses[i].refuse("%s at %s belongs to split %q already: %s", port, ip, owner.split, owner.at)
				break
			}
		}
	}
	for i, ip := range d.split.Service.Addresses {
		for _, port := range d.split.Service.Ports {
			mine := claim{d.split.Name, d.addresses[i]}
			enter(c.exact, endpoint{ip, port}, mine)
			enter(c.all, port, mine)
			if d.wild(ip) {
				enter(c.wildcards, port, mine)
			}
		}
	}
}

func (c *claims) owner(ip netip.Addr, port traffic.Port, d *draft) (claim, bool) {
	if d.wild(ip) {
		owner, taken := c.all[port]
		return owner, taken
	}
	if owner, taken := c.exact[endpoint{ip, port}]; taken {
		return owner, true
	}
	owner, taken := c.wildcards[port]
	return owner, taken
}

func (d *draft) wild(ip netip.Addr) bool {
	return ip.IsUnspecified() && d.split.Mode == traffic.ModeProxy
}

func enter[K comparable](owners map[K]claim, key K, mine claim) {
	if _, taken := owners[key]; !taken {
		owners[key] = mine
	}
}
