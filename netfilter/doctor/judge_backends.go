package doctor

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// judgeForwarding names one split of each family: the cure is for all.
func judgeForwarding(e *examination) {
	for _, family := range []struct {
		four         bool
		name, sysctl string
	}{
		{true, "IPv4", "net/ipv4/ip_forward"},
		{false, "IPv6", "net/ipv6/conf/all/forwarding"},
	} {
		i := slices.IndexFunc(e.ways, func(w forward) bool { return w.to.IP.Is4() == family.four })
		if e.sysctl(family.sysctl) == 1 || i < 0 {
			continue
		}
		cure := "sysctl -w " + dotted(family.sysctl) + "=1"
		if !family.four {
			cure = e.keepAdvertisements() + cure
		}
		e.add(Finding{
			Level: LevelError,
			Seen:  seen("split %q sends flows to %s but this host does not forward %s", e.ways[i].split.Name, e.ways[i].to.IP, family.name),
			Why:   "flows that are sent on end here", Cure: cure,
		})
	}
}

// keepAdvertisements begins the command that turns IPv6 forwarding on where
// router advertisements made the default route: it would go with it.
func (e *examination) keepAdvertisements() string {
	for _, name := range sortedKeys(e.Devices) {
		if e.Devices[name].AdvertisedRoute && e.sysctl(acceptRA(name)) == 1 {
			return "sysctl -w " + acceptRA(name) + "=2 && "
		}
	}
	return ""
}

// judgeAdvertisements: a host that forwards ignores router advertisements
// unless accept_ra is 2 (Documentation/networking/ip-sysctl.rst), and loses the
// default route that came from one.
func judgeAdvertisements(e *examination) {
	six := slices.ContainsFunc(e.Splits, func(s traffic.Split) bool {
		return slices.ContainsFunc(s.Service.Addresses, netip.Addr.Is6)
	})
	if !six || e.sysctl("net/ipv6/conf/all/forwarding") != 1 || e.Clients6.Device != "" {
		return
	}
	var ignoring []string
	for _, name := range sortedKeys(e.Devices) {
		d := e.Devices[name]
		if d.Up && e.sysctl(acceptRA(name)) == 1 && slices.ContainsFunc(d.Networks, isSix) {
			ignoring = append(ignoring, name)
		}
	}
	if len(ignoring) == 0 {
		return
	}
	e.add(Finding{
		Level: LevelWarning,
		Seen:  seen("this host has no IPv6 default route and ignores router advertisements on %s%s, because it forwards and accept_ra is 1", ignoring[0], more(len(ignoring))),
		Why:   "IPv6 clients get no replies once the route that an advertisement made is gone",
		If:    "if its default route comes from router advertisements,", Cure: "sysctl -w " + acceptRA(ignoring[0]) + "=2",
	})
}

func isSix(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().IsLoopback() }

// judgeFamilies finds what a configuration is refused for: a packet of a
// family without a backend stays here.
func judgeFamilies(e *examination) {
	for _, s := range e.Splits {
		for _, b := range s.Backends() {
			for _, a := range s.Service.Addresses {
				if b.Local || slices.ContainsFunc(b.Addresses, func(t traffic.Address) bool { return t.IP.Is4() == a.Is4() }) {
					continue
				}
				e.add(Finding{
					Level: LevelError,
					Seen:  seen("split %q: backend %q has no address of the family of service address %s", s.Name, b.Name, a),
					Why:   "its share of that family's flows stays on this host",
					Do:    "give the backend an address of that family and run", Cure: "splitctl apply",
				})
			}
		}
	}
}

// judgeLoopback: a flow to 127.0.0.1 leaves this host only with route_localnet
// and a source address of ours; one to ::1 never does.
func judgeLoopback(e *examination) {
	for _, w := range e.ways {
		switch {
		case !w.service.IsLoopback():
		case w.service.Is6():
			e.add(Finding{
				Level: LevelError, Seen: seen("split %q: service address %s cannot be sent to %s", w.split.Name, w.service, w.to.IP),
				Why: "the kernel never lets packets of ::1 leave the host",
				Do:  "use another service address, or", Cure: "mode: proxy",
			})
			return
		case e.sysctl(confAll+"route_localnet") != 1 && e.sysctl(conf4("lo", "route_localnet")) != 1:
			e.add(Finding{
				Level: LevelError, Seen: seen("split %q: service address %s is a loopback address and route_localnet is off", w.split.Name, w.service),
				Why: "the kernel drops packets of 127.0.0.0/8 that are to leave the host", Cure: "sysctl -w net.ipv4.conf.all.route_localnet=1",
			})
			return
		case w.split.Return != traffic.ReturnMasquerade:
			e.add(Finding{
				Level: LevelError, Seen: seen("split %q: service address %s is a loopback address and the clients' addresses are kept (return: %s)", w.split.Name, w.service, w.split.Return),
				Why: "another host cannot answer 127.0.0.1", Do: "set", Cure: "return: masquerade",
			})
			return
		}
	}
}

// judgeServices warns once: on a router in front every address is elsewhere.
func judgeServices(e *examination) {
	var name string
	var away []netip.Addr
	for _, s := range e.Splits {
		for _, a := range s.Service.Addresses {
			if e.Here[a] {
				continue
			}
			if len(away) == 0 {
				name = s.Name
			}
			away = append(away, a)
		}
	}
	if len(away) == 0 {
		return
	}
	e.add(Finding{
		Level: LevelWarning, Seen: seen("split %q: service address %s%s is not on this host", name, away[0], more(len(away))),
		Why: "packets to an address of nobody come here only if this host is the router in front of it",
		If:  "good if this host is the router in front of it, else", Cure: seen("ip address add %s dev DEVICE", whole(away[0])),
	})
}

// judgeBackendRoutes warns once for each address.
func judgeBackendRoutes(e *examination) {
	told := map[netip.Addr]bool{}
	for _, w := range e.ways {
		if e.Ways[w.to.IP].Device != "" || told[w.to.IP] {
			continue
		}
		told[w.to.IP] = true
		e.add(Finding{
			Level: LevelWarning, Seen: seen("split %q: this host has no route to %s of backend %q", w.split.Name, w.to.IP, w.backend),
			Why: "its share of the flows is answered with an ICMP error", Do: "see", Cure: seen("ip route get %s", w.to.IP),
		})
	}
}

// judgeSilent warns once for each address that was asked and did not answer.
func judgeSilent(e *examination) {
	told := map[netip.Addr]bool{}
	for _, w := range e.ways {
		way := e.Ways[w.to.IP]
		hop := w.to.IP
		if way.Gateway.IsValid() {
			hop = way.Gateway
		}
		if way.Device == "" || told[w.to.IP] {
			continue
		}
		why, device := e.Refusals[netip.AddrPortFrom(w.to.IP, w.to.Port)], e.Silent[hop]
		do, cure := "try", seen("nc -vz %s %d", w.to.IP, w.to.Port)
		switch {
		case device == way.Device:
			do, cure = "see", seen("ip neighbour show to %s", hop)
			why = seen("%s does not answer on %s (ARP or neighbour discovery failed)", hop, device)
		case w.port.Transport != traffic.TCP || why == "":
			continue
		}
		told[w.to.IP] = true
		e.add(Finding{
			Level: LevelWarning, Seen: seen("split %q: %s of backend %q cannot be reached: %s", w.split.Name, w.to.IP, w.backend, why),
			Why: "connections that are sent there fail", Do: do, Cure: cure,
		})
	}
}

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
