package doctor

import (
	"net/netip"

	"github.com/splitd/splitd/traffic"
)

// probePort is where a connection to a collector is tried, so that the kernel
// asks the link who has its address (discard, RFC 863). What comes of it does
// not matter.
const probePort = 9

// mirrored are the splits whose flows are copied.
func mirrored(splits []traffic.Split) []traffic.Split {
	var all []traffic.Split
	for _, s := range splits {
		if s.Mirror.To.IsValid() && s.Mirror.Sample > 0 {
			all = append(all, s)
		}
	}
	return all
}

// judgeMirror: a copy keeps the service's address as its destination, so it
// comes to a collector on the link and nowhere else, and nobody tells that it
// was lost.
func judgeMirror(e *examination) {
	told := map[netip.Addr]bool{}
	for _, s := range mirrored(e.Splits) {
		to := s.Mirror.To
		if told[to] {
			continue
		}
		told[to] = true
		if f, wrong := e.mirrorTarget(s.Name, to); wrong {
			e.add(f)
		}
	}
}

func (e *examination) mirrorTarget(split string, to netip.Addr) (Finding, bool) {
	way, known := e.Ways[to]
	f := Finding{Level: LevelWarning, Why: "the copies are lost, and nothing else tells so", Do: "see", Cure: seen("ip route get %s", to)}
	switch {
	case e.Here[to]:
		f.Seen = seen("split %q: the collector %s is an address of this host", split, to)
		f.Why = "copies are made for another host: a program here gets none"
		f.Do, f.Cure = "name a collector on a link of this host:", "mirror: {to: ADDRESS}"
	case !known:
		f.Seen = seen("split %q: this host has no route to the collector %s", split, to)
	case way.Gateway.IsValid():
		f.Seen = seen("split %q: the collector %s is not on a link of this host, but behind %s", split, to, way.Gateway)
		f.Why = "a copy keeps the service's address as its destination: that router sends it back here instead of on, and it is counted and split as a new datagram"
		f.Do, f.Cure = "name a collector on a link of this host, or lead a tunnel to it:", "mirror: {to: ADDRESS}"
	case e.Silent[to] == way.Device:
		f.Seen = seen("split %q: the collector %s does not answer on %s (ARP or neighbour discovery failed)", split, to, way.Device)
		f.Cure = seen("ip neighbour show to %s", to)
	default:
		return Finding{}, false
	}
	return f, true
}

// collectors are the ways to those who get copies.
func collectors(splits []traffic.Split) []forward {
	var ways []forward
	for _, s := range mirrored(splits) {
		ways = append(ways, forward{to: traffic.Address{IP: s.Mirror.To, Port: probePort}, port: traffic.Port{Transport: traffic.TCP}})
	}
	return ways
}
