package doctor

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// judgeMTU warns once for each device towards backends that takes smaller
// packets than the clients' side.
func judgeMTU(e *examination) {
	told := map[string]bool{}
	for _, w := range e.ways {
		way := e.Ways[w.to.IP]
		size, clients := e.mtu(way), e.mtu(e.clients(w.to.IP))
		if clients == 0 {
			clients = e.serviceMTU(w.service)
		}
		tcp := w.port.Transport == traffic.TCP
		if size == 0 || size >= clients || told[way.Device] || tcp && e.Own.Clamps {
			continue
		}
		told[way.Device] = true
		f := Finding{
			Level: LevelWarning, Seen: seen("split %q: packets to %s by %s may have %d bytes, those of clients %d", w.split.Name, w.to.IP, way.Device, size, clients),
			Why:  "where the ICMP answer \"too big\" is lost, connections stall at the first large packet; once the split is applied its own chain clamps TCP",
			Cure: clamp(way.Device),
		}
		if !tcp {
			f.Level, f.Cure = LevelNote, ""
			f.Why = "a datagram that is larger is cut or answered with an ICMP error; nothing tells UDP clients before"
		}
		e.add(f)
	}
}

// clamp is a table of the operator's own.
func clamp(device string) string {
	return "nft add table inet clamp && nft add chain inet clamp forward '{ type filter hook forward priority mangle; }' && " +
		"nft add rule inet clamp forward oifname " + device + " tcp flags '& (syn | rst) == syn' tcp option maxseg size set rt mtu"
}

func (h Host) mtu(w Way) int {
	if w.MTU > 0 {
		return w.MTU
	}
	return h.Devices[w.Device].MTU
}

// serviceMTU is that of the devices whose networks have the address, 0 where
// none has: of the loopback device, where a router may hold a service's address,
// it says nothing of clients.
func (h Host) serviceMTU(a netip.Addr) int {
	for _, name := range sortedKeys(h.Devices) {
		if d := h.Devices[name]; !d.Loopback && d.has(a) {
			return d.MTU
		}
	}
	return 0
}

// serviceWay is the device whose network has the address.
func (h Host) serviceWay(a netip.Addr) Way {
	for _, name := range sortedKeys(h.Devices) {
		if h.Devices[name].has(a) {
			return Way{Device: name}
		}
	}
	return Way{}
}

// judgeHairpin: a client on the backend's own link gets its replies directly,
// from an address that it never asked.
func judgeHairpin(e *examination) {
	told := map[string]bool{}
	for _, w := range e.ways {
		way := e.Ways[w.to.IP]
		if way.Device == "" || way.Gateway.IsValid() || told[way.Device] || w.split.Return == traffic.ReturnMasquerade {
			continue
		}
		network, shared := e.shared(way.Device, w)
		if !shared {
			continue
		}
		told[way.Device] = true
		f := Finding{
			Level: LevelWarning, Seen: seen("split %q: %s of backend %q is on the same link as clients (%s on %s)", w.split.Name, w.to.IP, w.backend, network, way.Device),
			Why: "its replies to clients on that link go around this host, from an address that they never asked",
		}
		if w.split.Return == traffic.ReturnGateway {
			f.Do, f.Cure = "set", "return: policy` or `return: masquerade"
			e.add(f)
			continue
		}
		if !e.redirects(way.Device) || !w.to.IP.Is4() {
			continue
		}
		f.Seen = seen("split %q: clients and %s of backend %q are on one link (%s on %s) and this host sends ICMP redirects%s",
			w.split.Name, w.to.IP, w.backend, network, way.Device, e.redirectsSent())
		f.Why = "a client or backend that follows one goes around this host, and its flow stops"
		f.Cure = "sysctl -w net.ipv4.conf.all.send_redirects=0 " + conf4(way.Device, "send_redirects") + "=0"
		e.add(f)
	}
}

// shared is the network that clients and the backend have in common: the
// device leads to clients, or the service's address is in one of its networks.
func (e *examination) shared(device string, w forward) (netip.Prefix, bool) {
	for _, p := range e.Devices[device].Networks {
		if p.Contains(w.to.IP) && (p.Contains(w.service) || e.clients(w.to.IP).Device == device) {
			return p.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// redirects says whether the kernel sends them: either setting is enough
// (IN_DEV_TX_REDIRECTS, include/linux/inetdevice.h).
func (e *examination) redirects(device string) bool {
	return e.sysctl(confAll+"send_redirects") == 1 || e.sysctl(conf4(device, "send_redirects")) == 1
}

func (e *examination) redirectsSent() string {
	if e.Counters.RedirectsSent == 0 {
		return ""
	}
	return seen(" (%d so far)", e.Counters.RedirectsSent)
}

// judgeTracking says what the first nat chain does to the host.
func judgeTracking(e *examination) {
	marks := slices.ContainsFunc(e.Paths, func(p traffic.ReturnPath) bool { return p.Match == traffic.MatchMark })
	if e.Tracking.On || len(e.Splits)+len(e.Relayed) == 0 && !marks {
		return
	}
	limit := "a number of flows that depends on the memory"
	if e.Tracking.Max > 0 {
		limit = seen("%d flows (nf_conntrack_max)", e.Tracking.Max)
	}
	e.add(Finding{
		Level: LevelNote, Seen: "connection tracking is turned on for all traffic of this host; it holds " + limit,
		Why: "a flow that finds no room is dropped", If: "for more,", Cure: "sysctl -w net.netfilter.nf_conntrack_max=N",
	})
}

// Connection tracking is nearly full at this share of its room, and full at
// that one: it drops when it finds nothing to evict.
const (
	nearlyFull = 80 // percent
	full       = 95
)

func judgeRoom(e *examination) {
	t := e.Tracking
	cure := seen("sysctl -w net.netfilter.nf_conntrack_max=%d", max(2*t.Max, 262_144))
	f := Finding{Why: "a new flow that finds no room is dropped, split or not", Cure: cure}
	if t.Max > 0 && t.Count*100 >= nearlyFull*t.Max {
		f.Level = LevelWarning
		if t.Count*100 >= full*t.Max {
			f.Level = LevelError
		}
		f.Seen = seen("connection tracking holds %d flows of at most %d (%d %%)", t.Count, t.Max, t.Count*100/t.Max)
		e.add(f)
	}
	if l := t.Lost; l.Dropped+l.EarlyDropped > 0 {
		f.Level = LevelWarning
		f.Seen = seen("connection tracking was full before: it dropped %d packets and ended %d flows early", l.Dropped, l.EarlyDropped)
		e.add(f)
	}
	if n := t.Lost.InsertFailed; n > 0 {
		e.add(Finding{
			Level: LevelNote, Seen: seen("%d flows met another one with the same ports in connection tracking (insert_failed)", n),
			Why: "each was dropped once and tried again", Do: "see", Cure: "conntrack -S",
		})
	}
}

func judgeAccounting(e *examination) {
	if len(e.Splits) == 0 || e.sysctl("net/netfilter/nf_conntrack_acct") == 1 {
		return
	}
	e.add(Finding{
		Level: LevelNote, Seen: "nf_conntrack_acct is 0: the bytes of flows are unknown",
		Why: "status and metrics tell flows only", If: "if you want bytes of flows that begin from then on,", Cure: "sysctl -w net.netfilter.nf_conntrack_acct=1",
	})
}

func judgeLoose(e *examination) {
	if len(e.Splits) == 0 || e.sysctl("net/netfilter/nf_conntrack_tcp_loose") != 1 {
		return
	}
	e.add(Finding{
		Level: LevelNote, Seen: "nf_conntrack_tcp_loose is 1: a flow that connection tracking has lost is picked up in its middle",
		Why: "splitd never draws such a flow again, so one that was on a candidate meets this host's own service and is reset",
		If:  "if other firewalls' state must not be picked up either,", Cure: "sysctl -w net.netfilter.nf_conntrack_tcp_loose=0",
	})
}
