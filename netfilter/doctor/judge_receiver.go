package doctor

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// judgeStrictRouter warns once for each device towards backends. A reply is
// dropped where it comes in, by a device that is strict and is not the one that
// leads to its sender.
func judgeStrictRouter(e *examination) {
	told := map[string]bool{}
	for _, w := range slices.Concat(e.ways, e.legs) {
		device := e.Ways[w.to.IP].Device
		others := e.strictBeside(device)
		if !w.to.IP.Is4() || device == "" || told[device] || len(others) == 0 {
			continue
		}
		told[device] = true
		e.add(Finding{
			Level: LevelWarning,
			Seen: seen("split %q: rp_filter is strict on %s%s and replies of %s are dropped there: they have to come in by %s%s",
				w.split.Name, others[0], more(len(others)), w.to.IP, device, e.reversePathDrops()),
			Why: "a reply that comes in by another device than the route to its sender is dropped in silence",
			If:  "if they do not,", Cure: "sysctl -w net.ipv4.conf.all.rp_filter=2",
		})
	}
}

// strictBeside are the other devices that drop what comes from elsewhere.
func (e *examination) strictBeside(device string) []string {
	var strict []string
	for _, name := range sortedKeys(e.Devices) {
		if d := e.Devices[name]; name != device && d.Up && slices.ContainsFunc(d.Networks, isFour) && e.strict(name) {
			strict = append(strict, name)
		}
	}
	return strict
}

func isFour(p netip.Prefix) bool { return p.Addr().Is4() && !p.Addr().IsLoopback() }

// judgeStrictNewHost: strict reverse path filtering hurts only paths that match
// by mark: the filter's own lookup follows the rule of the reply's source
// address (fib_validate_source, net/ipv4/fib_frontend.c), but a new flow has
// no packet mark yet.
func judgeStrictNewHost(e *examination) {
	for _, p := range e.Paths {
		four := !p.Via.IsValid() || p.Via.Is4()
		if _, there := e.Devices[p.Device]; !there || p.Match != traffic.MatchMark || !four || !e.strict(p.Device) {
			continue
		}
		e.add(Finding{
			Level: LevelWarning,
			Seen:  seen("return path %q: rp_filter is strict on %s and drops flows whose clients are routed elsewhere%s", p.Name, p.Device, e.reversePathDrops()),
			Why:   "clients whose route leads elsewhere get no answer at all", Cure: "sysctl -w " + conf4(p.Device, "rp_filter") + "=2",
		})
	}
}

// reversePathDrops is the evidence, if there is any.
func (e *examination) reversePathDrops() string {
	if e.Counters.ReversePathDrops == 0 {
		return ""
	}
	return seen(" (%d packets were dropped so far)", e.Counters.ReversePathDrops)
}

func judgePathDevices(e *examination) {
	for _, p := range e.Paths {
		if _, there := e.Devices[p.Device]; !there {
			e.add(Finding{
				Level: LevelWarning, Seen: seen("return path %q: there is no device %q: its replies are dropped until there is", p.Name, p.Device),
				Why: "replies have no way back to the router", Do: "see", Cure: "ip link",
			})
		}
	}
}

// judgePathVias: without a router's address the kernel takes the clients for
// neighbours. Only a link on which somebody answers for all of them carries that.
// A router that is not on the link, or that nobody is, has the replies dropped.
func judgePathVias(e *examination) {
	for _, p := range e.Paths {
		device := e.Devices[p.Device]
		switch {
		case !device.Ethernet:
		case !p.Via.IsValid():
			e.add(Finding{
				Level: LevelWarning, Seen: seen("return path %q has no via, and %s is a link with neighbours", p.Name, p.Device),
				Why: "this host asks on that link for each client by ARP or neighbour discovery, and no reply reaches the router",
				If:  "unless the router answers for all clients (proxy_arp),", Do: "name it in the return path:", Cure: "via: ADDRESS",
			})
		case !device.has(p.Via):
			e.add(Finding{
				Level: LevelWarning, Seen: seen("return path %q: via %s is on no network of %s", p.Name, p.Via, p.Device),
				Why: "the kernel takes no route to a router that it cannot reach, and the replies are dropped; `splitctl apply` does not mend it",
				If:  "unless a route of its own leads there,", Do: "write the router's address on that link, see", Cure: "ip address show dev " + p.Device,
			})
		case e.Silent[p.Via] == p.Device:
			e.add(Finding{
				Level: LevelWarning, Seen: seen("return path %q: nobody on %s answers for via %s", p.Name, p.Device, p.Via),
				Why: "every reply of the path is dropped", Do: "see", Cure: "ip neighbour show to " + p.Via.String(),
			})
		}
	}
}

func judgePathAddresses(e *examination) {
	for _, p := range e.Paths {
		if _, there := e.Devices[p.Device]; there && p.Match == traffic.MatchAddress && !e.Here[p.Address] {
			e.add(Finding{
				Level: LevelWarning, Seen: seen("return path %q: address %s is not on this host", p.Name, p.Address),
				Why: "what the router sends to it is answered by nobody", Cure: seen("ip address add %s dev %s", whole(p.Address), p.Device),
			})
		}
	}
}

// judgeClientRoute: the first SYN-ACK is made by a route lookup before it has a
// mark. A path by address has its rule for that lookup already.
func judgeClientRoute(e *examination) {
	for _, p := range e.Paths {
		four := !p.Via.IsValid() || p.Via.Is4()
		if way := e.Clients6; p.Match != traffic.MatchMark || four && e.Clients4.Device != "" || !four && way.Device != "" {
			continue
		}
		family, any := "", "default"
		if !four {
			family, any = "-6 ", "::/0"
		}
		via := ""
		if p.Via.IsValid() {
			via = seen("via %s ", p.Via)
		}
		e.add(Finding{
			Level: LevelWarning, Seen: seen("return path %q matches by mark and this host has no route to clients of that family", p.Name),
			Why:  "the first SYN-ACK is never made: it needs some route, however wrong, before it gets its mark",
			Cure: seen("ip %sroute add %s %sdev %s metric 9999", family, any, via, p.Device),
		})
	}
}

// judgeWildcardUDP: a UDP socket that is bound to no address answers from the
// address of the route, which conntrack on the router does not know.
func judgeWildcardUDP(e *examination) {
	for _, p := range e.Paths {
		ports := e.AnyUDP
		if len(p.Ports) > 0 {
			ports = slices.DeleteFunc(slices.Clone(ports), func(port uint16) bool {
				return !slices.ContainsFunc(p.Ports, func(of traffic.Port) bool { return of.Transport == traffic.UDP && of.Contains(port) })
			})
		}
		from := e.clients(p.Address).Source
		if !p.Address.IsValid() {
			from = e.Clients4.Source
		}
		if len(ports) == 0 || p.Match == traffic.MatchAddress && from == p.Address || p.Match == traffic.MatchMark && e.ownAddresses() < 2 {
			continue
		}
		bind := "the address that the router sends to"
		if p.Address.IsValid() {
			bind = p.Address.String()
		}
		cure := Finding{
			Level: LevelNote,
			Seen:  seen("return path %q: the UDP server on port %d%s is bound to no address and answers from %s", p.Name, ports[0], more(len(ports)), named(from)),
			Why:   "an answer from another address than the one asked reaches no client",
			If:    "if it serves flows of this path, bind it to " + bind + " or give the route that source;", Cure: seen("ss -lunp 'sport = :%d'", ports[0]), Do: "see",
		}
		if len(p.Ports) > 0 {
			cure.Level = LevelWarning
		}
		e.add(cure)
	}
}

func named(a netip.Addr) string {
	if !a.IsValid() {
		return "the address of the route"
	}
	return a.String()
}

// ownAddresses counts the addresses of IPv4 that packets can come from.
func (e *examination) ownAddresses() int {
	n := 0
	for _, d := range e.Devices {
		for _, p := range d.Networks {
			if p.Addr().Is4() && !p.Addr().IsLoopback() {
				n++
			}
		}
	}
	return n
}

// judgeAlias: what this host itself sends from the path's address takes the way
// to the router too, and a client that is reached both ways may meet its own
// connection there: the same addresses, the same ports. IPv6 likes to choose a
// new address on the device (RFC 6724, section 5).
func judgeAlias(e *examination) {
	for _, p := range e.Paths {
		if p.Match != traffic.MatchAddress || e.clients(p.Address).Source != p.Address {
			continue
		}
		f := Finding{
			Level: LevelWarning, Seen: seen("return path %q: %s is also the address from which this host's own connections come", p.Name, p.Address),
			Why: "they go to the router too, and a client's port used both ways stalls for a second",
			Do:  "give the path and the router's backend an address of their own:", Cure: seen("ip address add ADDRESS/32 dev %s", p.Device),
		}
		if p.Address.Is6() { // a deprecated address answers and is never chosen
			f.Do, f.Cure = "", seen("ip address change %s dev %s preferred_lft 0", whole(p.Address), p.Device)
		}
		e.add(f)
	}
}

// judgeLoops: vxlan and others keep the packet mark on their outer packets.
func judgeLoops(e *examination) {
	for _, l := range e.Loops {
		e.add(Finding{
			Level: LevelError, Seen: seen("packets of tunnel %s to its far end %s are led into the tunnel again by `%s`", l.Device, l.Remote, l.Rule.Text),
			Why: "the tunnel carries no marked packet", Cure: seen("ip %srule add pref %d to %s lookup main", sixFlag(l.Remote), max(l.Rule.Priority-10, 1), l.Remote),
		})
	}
}

func sixFlag(a netip.Addr) string {
	if a.Is6() {
		return "-6 "
	}
	return ""
}
