package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// hostFacts is what this host is like, as far as kernel mode depends on it.
// Maps hold what the splits and paths ask for.
type hostFacts struct {
	forwards4, forwards6 bool
	// here are the addresses that are this host's own.
	here map[netip.Addr]bool
	// towards is the device of the route to an address, "" without a route.
	towards map[netip.Addr]string
	// clients4 and clients6 are the devices of the default routes, "" without.
	clients4, clients6 string
	// strict are the devices with strict reverse path filtering, IPv4 only.
	strict map[string]bool
	// devices are those that exist.
	devices map[string]bool
	// tables are other programs' nftables tables.
	tables []foreignTable
	// tracking says that connection tracking is at work already; trackingMax
	// is how many flows it can hold, 0 when the kernel does not say yet.
	tracking    bool
	trackingMax int
}

// findings are what is wrong with a host: faults forbid to start.
type findings struct {
	faults   []error
	warnings []string
}

func (f *findings) fault(format string, args ...any) {
	f.faults = append(f.faults, fmt.Errorf(format, args...))
}

func (f *findings) warn(format string, args ...any) {
	f.warnings = append(f.warnings, fmt.Sprintf(format, args...))
}

// forward is one way in which flows of a split leave this host for another.
type forward struct {
	split   string
	backend string
	service netip.Addr
	port    traffic.Port
	to      traffic.Address // with the port filled in
}

// forwards lists the ways to other hosts. A weight of zero counts: it may be
// raised at any time.
func forwards(splits []traffic.Split, here map[netip.Addr]bool) []forward {
	var ways []forward
	for _, s := range splits {
		for _, b := range s.Backends() {
			for _, service := range s.Service.Addresses {
				for _, port := range s.Service.Ports {
					to, ok := b.Address(service)
					if !ok || s.StaysHere(b, service, port.Number) || here[to.IP] {
						continue
					}
					if to.Port == 0 {
						to.Port = port.Number
					}
					ways = append(ways, forward{split: s.Name, backend: b.Name, service: service, port: port, to: to})
				}
			}
		}
	}
	return ways
}

// judge says what of the host stands in the way of the splits and return
// paths. It is pure.
func judge(facts hostFacts, splits []traffic.Split, paths []traffic.ReturnPath) findings {
	var f findings
	ways := forwards(splits, facts.here)
	f.judgeForwarding(facts, ways)
	f.judgeServices(facts, splits)
	f.judgeRoutes(facts, ways)
	f.judgeForeignTranslation(facts, splits)
	f.judgeForeignDrop(facts, ways)
	f.judgePaths(facts, paths)
	f.judgeTracking(facts, splits, paths)
	return f
}

// judgeForwarding refuses one split of each family: the cure is for all.
func (f *findings) judgeForwarding(facts hostFacts, ways []forward) {
	for _, family := range []struct {
		on     bool
		four   bool
		name   string
		sysctl string
	}{
		{facts.forwards4, true, "IPv4", "net.ipv4.ip_forward=1"},
		{facts.forwards6, false, "IPv6", "net.ipv6.conf.all.forwarding=1"},
	} {
		i := slices.IndexFunc(ways, func(w forward) bool { return w.to.IP.Is4() == family.four })
		if family.on || i < 0 {
			continue
		}
		f.fault("split %q sends flows to %s but this host does not forward %s: run `sysctl -w %s`",
			ways[i].split, ways[i].to.IP, family.name, family.sysctl)
	}
}

// judgeServices warns once: on a router in front every address is elsewhere.
func (f *findings) judgeServices(facts hostFacts, splits []traffic.Split) {
	var first traffic.Split
	var away []netip.Addr
	for _, s := range splits {
		for _, a := range s.Service.Addresses {
			if facts.here[a] {
				continue
			}
			if len(away) == 0 {
				first = s
			}
			away = append(away, a)
		}
	}
	if len(away) == 0 {
		return
	}
	more := ""
	if n := len(away) - 1; n > 0 {
		more = fmt.Sprintf(" (and %d more)", n)
	}
	f.warn("split %q: service address %s%s is not on this host: good if this host is the router in front of it, else run `ip address add %s dev DEVICE`",
		first.Name, away[0], more, netip.PrefixFrom(away[0], away[0].BitLen()))
}

// judgeRoutes warns once for each address without a route and each device.
func (f *findings) judgeRoutes(facts hostFacts, ways []forward) {
	unreachable, strict := map[netip.Addr]bool{}, map[string]bool{}
	for _, w := range ways {
		device := facts.towards[w.to.IP]
		switch {
		case device == "" && !unreachable[w.to.IP]:
			unreachable[w.to.IP] = true
			f.warn("split %q: this host has no route to %s of backend %q: see `ip route get %s`", w.split, w.to.IP, w.backend, w.to.IP)
		case w.to.IP.Is4() && facts.strict[device] && !strict[device]:
			strict[device] = true
			f.warn("split %q: rp_filter is strict and replies of %s are dropped unless they come in by %s: if they do not, run `sysctl -w net.ipv4.conf.all.rp_filter=2`",
				w.split, w.to.IP, device)
		}
	}
}

// judgePaths looks at the receiving side. Strict reverse path filtering hurts
// only paths that match by mark: the filter's own lookup follows the rule of
// the reply's source address (fib_validate_source, net/ipv4/fib_frontend.c),
// but a new flow has no packet mark yet.
func (f *findings) judgePaths(facts hostFacts, paths []traffic.ReturnPath) {
	for _, p := range paths {
		if !facts.devices[p.Device] {
			f.warn("return path %q: there is no device %q: its replies are dropped until there is; see `ip link`", p.Name, p.Device)
			continue
		}
		if p.Match == traffic.MatchAddress && !facts.here[p.Address] {
			f.warn("return path %q: address %s is not on this host: run `ip address add %s dev %s`",
				p.Name, p.Address, netip.PrefixFrom(p.Address, p.Address.BitLen()), p.Device)
		}
		four := !p.Via.IsValid() || p.Via.Is4()
		if p.Match == traffic.MatchMark && four && facts.strict[p.Device] {
			f.warn("return path %q: rp_filter is strict on %s and drops flows whose clients are routed elsewhere: run `sysctl -w net/ipv4/conf/%s/rp_filter=2`",
				p.Name, p.Device, p.Device)
		}
	}
}

func (f *findings) judgeTracking(facts hostFacts, splits []traffic.Split, paths []traffic.ReturnPath) {
	marks := slices.ContainsFunc(paths, func(p traffic.ReturnPath) bool { return p.Match == traffic.MatchMark })
	if facts.tracking || len(splits) == 0 && !marks {
		return
	}
	limit := "a number of flows that depends on the memory"
	if facts.trackingMax > 0 {
		limit = fmt.Sprintf("%d flows (nf_conntrack_max)", facts.trackingMax)
	}
	f.warn("note: connection tracking is turned on for all traffic of this host; it holds %s, more with `sysctl -w net.netfilter.nf_conntrack_max=N`", limit)
}

func (f *findings) judgeForeignTranslation(facts hostFacts, splits []traffic.Split) {
	for _, s := range splits {
		for _, a := range s.Service.Addresses {
			for _, port := range s.Service.Ports {
				for _, table := range facts.tables {
					f.warnTranslation(table, s.Name, packet{to: a, port: port, in: facts.clients(a)})
				}
			}
		}
	}
}

func (f *findings) warnTranslation(table foreignTable, split string, p packet) {
	for _, c := range table.chains {
		if c.kind != kindNAT || c.hook != hookPrerouting || c.priority > prioritySplit {
			continue
		}
		walk := table.walk(c, p)
		if walk.translated == no {
			continue
		}
		verb := "takes"
		if walk.translated == maybe {
			verb = "may take"
		}
		f.warn("split %q: another program's rule %s %s before splitd sees it: if it is not meant, run `nft delete rule %s %s %s handle %d`",
			split, verb, service{ip: p.to, port: p.port}.text(), table.family, table.name, walk.by.chain, walk.by.handle)
	}
}

// judgeForeignDrop warns once for each chain: its cure is for all flows.
func (f *findings) judgeForeignDrop(facts hostFacts, ways []forward) {
	for _, table := range facts.tables {
		for _, c := range table.chains {
			if c.hook != hookForward || !c.drops {
				continue
			}
			i := slices.IndexFunc(ways, func(w forward) bool { return !table.walk(c, facts.forwarded(w)).accepted })
			if i >= 0 {
				f.warn("split %q: chain %s of table %s %s drops what this host forwards, flows to %s too: run `%s`",
					ways[i].split, c.name, table.family, table.name, ways[i].to.IP, table.letThrough(c))
			}
		}
	}
}

// forwarded is the way's first packet, translated, as the forward hook sees it.
func (facts hostFacts) forwarded(w forward) packet {
	return packet{
		to: w.to.IP, port: traffic.Port{Number: w.to.Port, Transport: w.port.Transport},
		in: facts.clients(w.to.IP), out: facts.towards[w.to.IP], translated: true,
	}
}

func (facts hostFacts) clients(a netip.Addr) string {
	if a.Is4() {
		return facts.clients4
	}
	return facts.clients6
}

func (f findings) err() error { return errors.Join(f.faults...) }
