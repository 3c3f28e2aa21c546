package netfilter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/traffic"
)

// A tracedPacket is the first of a flow, or one that conntrack does not know.
type tracedPacket struct {
	from, to netip.Addr
	port     traffic.Port
	notSyn   bool
	mark     uint32
	local    bool // it starts on this host
}

// fate is what a ruleset does with a packet.
type fate struct {
	Counted    []string
	To         string // where it is sent; "" leaves it alone
	Mark       uint32
	Masquerade bool
	Timeout    string // of UDP
	Clamped    bool
	Relay      string // the listener that gets it
}

// tracer walks a packet through a ruleset as the kernel does.
type tracer struct {
	ruleset table
	draw    func(n uint32) uint32
	packet  tracedPacket
	fate    fate
	done    bool
}

func trace(r Ruleset, p tracedPacket, draw func(n uint32) uint32) fate {
	t := tracer{draw: draw, packet: p, fate: fate{Mark: p.mark}}
	t.ruleset, _ = r.table(TableSplits)
	entrance := hookPrerouting
	if p.local {
		entrance = hookOutput
	}
	hooked := slices.DeleteFunc(slices.Clone(t.ruleset.chains), func(c chain) bool {
		return c.hook == nil || c.hook.name != entrance || c.hook.kind == kindRoute
	})
	slices.SortFunc(hooked, func(a, b chain) int { return a.hook.priority - b.hook.priority })
	for _, c := range hooked {
		t.done = false // a verdict ends one hooked chain
		t.chain(c.name)
	}
	for _, c := range t.ruleset.chains {
		if c.hook != nil && c.hook.name == hookPostrouting {
			t.done = false
			t.chain(c.name)
		}
	}
	return t.fate
}

func (t *tracer) chain(name string) {
	c, _ := t.ruleset.chain(name)
	for _, r := range c.rules {
		if t.rule(r) || t.done {
			return
		}
	}
}

// rule says whether the chain is left.
func (t *tracer) rule(r rule) bool {
	for _, s := range r.statements {
		switch s := s.(type) {
		case count:
			t.fate.Counted = append(t.fate.Counted, s.name)
		case markFlow:
			t.fate.Mark = t.fate.Mark&s.keep ^ s.value
		case translate:
			if s.to.Is4() == t.packet.to.Is4() {
				port := s.port
				if port == 0 {
					port = t.packet.port.Number
				}
				t.fate.To, t.done = netip.AddrPortFrom(s.to, port).String(), true
				return true
			}
		case masquerade:
			t.fate.Masquerade, t.done = true, true
			return true
		case dispatch:
			for _, e := range t.ruleset.elements {
				asked := e.service.ip == t.packet.to && e.service.port.Overlaps(t.packet.port)
				if asked && e.in == s.services {
					t.chain(e.chain)
					return true
				}
			}
		case dispatchOriginal:
			for _, e := range t.ruleset.elements {
				asked := e.service.ip == t.packet.to && e.service.port.Overlaps(t.packet.port)
				if asked && e.in == s.services && s.transport == t.packet.port.Transport {
					t.chain(e.chain)
					return true
				}
			}
		case handOver:
			if s.to.Port() == portOfNone || s.to.Addr().Is6() != t.packet.from.Is6() {
				return false
			}
			t.fate.Relay = s.to.String()
		case markPacket:
		case clampSegments:
			t.fate.Clamped = true
		case setTimeout:
			if t.packet.port.Transport != traffic.UDP {
				return false
			}
			t.fate.Timeout = s.name
		case draw:
			if !t.meets(s.by) {
				return false
			}
			n := t.draw(uint32(traffic.Whole))
			for _, p := range s.shares {
				if p.first <= n && n <= p.last {
					t.chain(p.chain)
					return true
				}
			}
		case verdict:
			return t.verdict(s)
		default:
			if !t.holds(s) {
				return false
			}
		}
	}
	return false
}

func (t *tracer) verdict(v verdict) bool {
	switch v.kind { //nolint:exhaustive // the kinds that our rules use
	case expr.VerdictAccept:
		t.done = true
		return true
	case expr.VerdictReturn:
		return true
	case expr.VerdictJump:
		t.chain(v.chain)
		return t.done
	default:
		t.chain(v.chain)
		return true
	}
}

func (t *tracer) holds(condition statement) bool {
	switch c := condition.(type) {
	case notSyn:
		return t.packet.notSyn && t.packet.port.Transport == traffic.TCP
	case source:
		return t.packet.from == c.ip
	case destination:
		return t.packet.to == c.ip
	case destinationPort:
		return t.packet.port == c.port
	case transport:
		return t.packet.port.Transport == c.name
	case opensTCP:
		return t.packet.port.Transport == traffic.TCP && !t.packet.notSyn
	case addressed:
		return t.packet.from.Is6() == c.six
	case member:
		return slices.ContainsFunc(t.ruleset.groups, func(g group) bool {
			inside := func(n netip.Prefix) bool { return n.Contains(t.packet.from) }
			return g.name == c.set && slices.ContainsFunc(g.networks, inside)
		})
	case oneIn:
		return t.meets(c.by) && t.draw(c.of) == 0
	case marked:
		return t.fate.Mark&c.mask == c.value
	case packetMarked:
		return c.value == 0 // no packet comes in with one of ours
	case direction:
		return !c.reply
	default:
		panic(fmt.Sprintf("the tracer does not know %T", condition))
	}
}

// meets says whether the packet is of the family that the lot hashes.
func (t *tracer) meets(l lot) bool { return l.prefix == 0 || l.six == t.packet.from.Is6() }

func TestAPacketMeetsItsFate(t *testing.T) {
	client4, client6 := netip.MustParseAddr("192.0.2.100"), netip.MustParseAddr("2001:db8::100")
	mx4, mx6 := netip.MustParseAddr("192.0.2.25"), netip.MustParseAddr("2001:db8::25")
	smtp, submission := traffic.Port{Number: 25, Transport: traffic.TCP}, traffic.Port{Number: 587, Transport: traffic.TCP}
	splits := goldenSplits()
	for _, tc := range []struct {
		name   string
		splits string
		packet tracedPacket
		number uint32 // drawn
		want   fate
	}{
		{"the first number of the candidate", "dual", tracedPacket{from: client4, to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x08000000}},
		{"the last number of the candidate", "dual", tracedPacket{from: client6, to: mx6, port: smtp}, 49_999, fate{Counted: []string{"mx/new"}, To: "[2001:db8:2::12]:25", Mark: 0x08000000}},
		{"the first number of the primary", "dual", tracedPacket{from: client4, to: mx4, port: smtp}, 50_000, fate{Counted: []string{"mx/old"}}},
		{"the last number of the primary", "dual", tracedPacket{from: client6, to: mx6, port: smtp}, 999_999, fate{Counted: []string{"mx/old"}}},
		{"another port", "dual", tracedPacket{from: client4, to: mx4, port: submission}, 0, fate{}},
		{"another address", "dual", tracedPacket{from: client4, to: client4, port: smtp}, 0, fate{}},
		{"picked up in the middle", "dual", tracedPacket{from: client4, to: mx4, port: smtp, notSyn: true}, 0, fate{}},
		{"a backend's own flow", "dual", tracedPacket{from: netip.MustParseAddr("10.0.2.12"), to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}}},
		{"the primary's own flow", "remote", tracedPacket{from: netip.MustParseAddr("10.0.1.11"), to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}, To: "10.0.1.11:25", Mark: 0x08000000}},
		{"the bits of others are kept", "dual", tracedPacket{from: client4, to: mx4, port: smtp, mark: 0xff0000ff}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x080000ff}},
		{"the primary elsewhere", "remote", tracedPacket{from: client4, to: mx4, port: smtp}, 50_000, fate{Counted: []string{"mx/old"}, To: "10.0.1.11:25", Mark: 0x08000000}},
		{"masquerade", "masquerade", tracedPacket{from: client6, to: mx6, port: smtp}, 0, fate{Counted: []string{"mx/new"}, To: "[2001:db8:2::12]:25", Mark: 0x10000000, Masquerade: true}},
		{"the second candidate", "several", tracedPacket{from: client4, to: mx4, port: smtp}, 50_000, fate{Counted: []string{"mx/newer"}, To: "10.0.2.13:25", Mark: 0x08000000}},
		{"a changed port", "ports", tracedPacket{from: client4, to: mx4, port: submission}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:2525", Mark: 0x08000000}},
		{"a changed port by UDP", "ports", tracedPacket{from: client6, to: mx6, port: traffic.Port{Number: 53, Transport: traffic.UDP}}, 0, fate{Counted: []string{"mx/new"}, To: "[2001:db8:2::12]:2525", Mark: 0x08000000}},
		{"the primary is the service itself", "itself", tracedPacket{from: client4, to: mx4, port: submission}, 10_000, fate{Counted: []string{"mx/old"}}},
		{"the primary is the service at one port", "itself", tracedPacket{from: client6, to: mx6, port: submission}, 10_000, fate{Counted: []string{"mx/old"}, To: "[2001:db8::25]:25", Mark: 0x08000000}},
		{"the primary is the other address", "itself", tracedPacket{from: client4, to: netip.MustParseAddr("192.0.2.26"), port: smtp}, 10_000, fate{Counted: []string{"mx/old"}, To: "192.0.2.25:25", Mark: 0x08000000}},
		{"100 %", "whole", tracedPacket{from: client4, to: mx4, port: smtp}, 999_999, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x08000000}},
		{"the high end is the second candidate's", "affinity", tracedPacket{from: client6, to: mx6, port: smtp}, 990_000, fate{Counted: []string{"mx/newer"}, To: "[2001:db8:2::13]:25", Mark: 0x08000000}},
		{"the middle is the primary's", "affinity", tracedPacket{from: client4, to: mx4, port: smtp}, 989_999, fate{Counted: []string{"mx/old"}}},
		{"a slot of the third candidate", "slots", tracedPacket{from: client4, to: mx4, port: smtp}, 519_999, fate{Counted: []string{"mx/newest"}, To: "10.0.2.14:25", Mark: 0x08000000}},
		{"a client that always goes to a candidate at 0 %", "groups", tracedPacket{from: netip.MustParseAddr("198.51.100.9"), to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x08000000}},
		{"any other at 0 %", "groups", tracedPacket{from: client4, to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}}},
		{"a flow of this host by UDP", "dns", tracedPacket{from: client4, to: mx4, local: true, port: traffic.Port{Number: 53, Transport: traffic.UDP}}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:53", Mark: 0x08000000, Timeout: "mx/10s"}},
		{"a port of a run", "dns", tracedPacket{from: client6, to: mx6, port: traffic.Port{Number: 40100, Transport: traffic.UDP}}, 0, fate{Counted: []string{"mx/new"}, To: "[2001:db8:2::12]:40100", Mark: 0x08000000, Timeout: "mx/10s"}},
		{"a port behind the run", "dns", tracedPacket{from: client6, to: mx6, port: traffic.Port{Number: 40101, Transport: traffic.UDP}}, 0, fate{}},
		{"the first of the living addresses", "farm", tracedPacket{from: client4, to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x08000000}},
		{"the last of the living addresses", "farm", tracedPacket{from: client4, to: mx4, port: smtp}, 1, fate{Counted: []string{"mx/new"}, To: "10.0.2.13:26", Mark: 0x08000000}},
		{"a candidate that is down in the family", "farm", tracedPacket{from: client6, to: mx6, port: smtp}, 50_000, fate{Counted: []string{"mx/old"}}},
		{"a number of a candidate is not sampled", "sampled", tracedPacket{from: client4, to: mx4, port: smtp}, 49_999, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x08000000}},
		{"the first of the primary's numbers that is sampled", "sampled", tracedPacket{from: client6, to: mx6, port: smtp}, 50_000, fate{Counted: []string{"mx/old"}, Mark: 0x18000000, Relay: "[::1]:15000"}},
		{"the last of the primary's numbers that is sampled", "sampled", tracedPacket{from: client4, to: mx4, port: smtp}, 299_999, fate{Counted: []string{"mx/old"}, Mark: 0x18000000, Relay: "127.0.0.1:15000"}},
		{"the first of the primary's numbers that is not sampled", "sampled", tracedPacket{from: client4, to: mx4, port: smtp}, 300_000, fate{Counted: []string{"mx/old"}}},
		{"a backend's own flow is not sampled", "sampled", tracedPacket{from: netip.MustParseAddr("10.0.2.12"), to: mx4, port: smtp}, 100_000, fate{Counted: []string{"mx/old"}}},
		{"a sampled flow of a primary elsewhere", "sampled-farm", tracedPacket{from: client6, to: mx6, port: smtp}, 50_000, fate{Counted: []string{"mx/old"}, To: "[2001:db8:1::11]:25", Mark: 0x18000000, Relay: "[::1]:15002"}},
		{"a number of a candidate at 100 % sample", "sampled-farm", tracedPacket{from: client6, to: mx6, port: smtp}, 990_000, fate{Counted: []string{"mx/newer"}, To: "[2001:db8:2::13]:25", Mark: 0x08000000}},
		{"a sample of 0 %", "sampled-farm", tracedPacket{from: client4, to: mx4, port: traffic.Port{Number: 53, Transport: traffic.TCP}}, 50_000, fate{Counted: []string{"dns/old"}, To: "10.0.1.11:53", Mark: 0x10000000, Masquerade: true}},
		{"a client that always goes to a candidate is not sampled", "sampled-groups", tracedPacket{from: netip.MustParseAddr("198.51.100.9"), to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x08000000}},
		{"a client that never goes to a candidate is sampled as the primary's", "sampled-groups", tracedPacket{from: netip.MustParseAddr("10.1.2.3"), to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}, Mark: 0x18000000, Relay: "127.0.0.1:15000"}},
		{"0 %", "zero", tracedPacket{from: client4, to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Build(splits[tc.splits], labSettings)
			got := trace(r, tc.packet, func(n uint32) uint32 { return tc.number % n })
			got.Mark &^= labSettings.generationMask()
			tc.want.Clamped = (tc.want.To != "" || tc.want.Relay != "") && tc.packet.port.Transport == traffic.TCP
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("fate (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSimulatedDrawsMeetTheWeightSet(t *testing.T) {
	random := rand.New(rand.NewPCG(2026, 11))
	const draws = 100_000
	for _, weight := range []traffic.Weight{0, 1_000, 50_000, 500_000, 999_000, traffic.Whole} {
		s := localSplit(1, weight)
		r := Build([]traffic.Split{s}, labSettings)
		hits := 0
		for i := range draws {
			p := tracedPacket{from: netip.MustParseAddr("192.0.2.100"), to: s.Service.Addresses[0], port: s.Service.Ports[0]}
			if i%2 == 1 {
				p.from, p.to = netip.MustParseAddr("2001:db8::100"), s.Service.Addresses[1]
			}
			if trace(r, p, random.Uint32N).To != "" {
				hits++
			}
		}
		if !plausible(hits, draws, weight, seededLooks) {
			t.Errorf("%s: %d of %d draws", weight, hits, draws)
		}
	}
}
