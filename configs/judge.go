package configs

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// judge reports what is wrong with a split as a whole. What could not be read
// has been reported, and is not held against the rest.
func (d *draft) judge() {
	d.judgeNames()
	d.judgeService()
	d.judgeShown()
	places := occupied{}
	for i, b := range d.backends {
		d.judgeFamilies(b)
		d.judgeReach(b)
		d.judgeChange(b)
		if !b.whole {
			continue
		}
		if !d.judgeLoop(b) {
			d.judgeTwin(b, places)
		}
		d.occupy(&d.backends[i], places)
	}
	d.judgeGroups()
	d.judgeDraw()
	d.judgeMirror()
	d.judgeShadow()
	d.judgeMode()
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
			at.note("%s", aboutLoopback(ip, d.split.LocalClients))
		}
		if ip.IsUnspecified() && d.split.Mode != traffic.ModeProxy && d.split.Mode != modeUnknown {
			at.refuse("%s is a wildcard, which only mode proxy has: name the addresses, or set mode: proxy", ip)
		}
	}
	d.judgePorts()
}

// aboutLoopback says what becomes of flows to a loopback address in mode kernel
// (route_localnet in Documentation/networking/ip-sysctl.rst; IPv6 has no such
// switch).
func aboutLoopback(ip netip.Addr, localClients bool) string {
	switch {
	case !localClients:
		return fmt.Sprintf("unused in mode kernel: flows to %s start on this host, and those are split with local_clients: true alone", ip)
	case ip.Is4():
		return fmt.Sprintf("flows to %s leave this host only with return: masquerade and sysctl net.ipv4.conf.all.route_localnet=1", ip)
	}
	return fmt.Sprintf("unused in mode kernel: flows to %s cannot leave this host", ip)
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
		for _, target := range d.targets(b.backend, ip) {
			if d.loops(b, ip, target) {
				return true
			}
		}
	}
	return false
}

func (d *draft) loops(b backendDraft, ip netip.Addr, target traffic.Address) bool {
	relayed := d.relayed()
	own := target.IP == ip && d.portsMeet(target.Port, 0)
	switch {
	case b.backend.Local && relayed && (ip == target.IP || ip.IsUnspecified()):
		b.at.refuse("local is %s in mode %s, at the service's own port (%s listens there): "+
			"give the service an address that the local server does not hold, or name the server's address and port",
			target.IP, d.split.Mode, ip)
	case b.backend.Local:
		return false
	case !b.primary && own:
		b.at.refuse("%s is the service's own address: a candidate needs one of its own", ip)
	case relayed && (own || ip.IsUnspecified() && target.IP.IsLoopback() && d.portsMeet(target.Port, 0)):
		b.at.refuse("%s is the service itself in mode %s, the relay would connect to itself: name where the backend listens",
			target, d.split.Mode)
	case own && len(d.targets(b.backend, ip)) > 1:
		b.at.refuse("%s is the service's own address, which leaves flows where they are: it stands alone in its family, "+
			"or write the addresses where the servers are", ip)
	default:
		return false
	}
	return true
}

// targets are where b serves flows to that service address; port 0 means that
// the client's is kept.
func (d *draft) targets(b traffic.Backend, ip netip.Addr) []traffic.Address {
	switch {
	case !b.Local:
		return b.Living(ip)
	case !d.relayed():
		return []traffic.Address{{IP: ip}}
	case ip.Is4():
		return []traffic.Address{{IP: netip.AddrFrom4([4]byte{127, 0, 0, 1})}}
	}
	return []traffic.Address{{IP: netip.IPv6Loopback()}}
}

// ends are where flows of b end, each once.
func (d *draft) ends(b traffic.Backend) []traffic.Address {
	var all []traffic.Address
	families := map[bool]bool{}
	for _, ip := range d.split.Service.Addresses {
		if b.Local || !families[ip.Is4()] { // other backends serve all of a family alike
			all = append(all, d.targets(b, ip)...)
		}
		families[ip.Is4()] = true
	}
	return all
}

// occupied are the backends so far that flows end at, by address.
type occupied map[netip.Addr][]occupant

type occupant struct {
	port    uint16
	backend *backendDraft
}

func (d *draft) occupy(b *backendDraft, places occupied) {
	for _, end := range d.ends(b.backend) {
		places[end.IP] = append(places[end.IP], occupant{end.Port, b})
	}
}

// judgeTwin refuses a backend at the address and port of one before it: their
// flows could not be told apart.
func (d *draft) judgeTwin(b backendDraft, before occupied) {
	for _, end := range d.ends(b.backend) {
		for _, other := range before[end.IP] {
			if d.portsMeet(end.Port, other.port) {
				b.at.refuse("%s is where backend %q is too (%s): their flows could not be told apart",
					end.IP, other.backend.backend.Name, other.backend.at)
				return
			}
		}
	}
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
