package netfilter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
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
}

// fate is what a ruleset does with a packet.
type fate struct {
	Counted    []string
	To         string // where it is sent; "" leaves it alone
	Mark       uint32
	Masquerade bool
}

// tracer walks a packet through a ruleset as the kernel does.
type tracer struct {
	ruleset Ruleset
	draw    func(n uint32) uint32
	packet  tracedPacket
	fate    fate
	done    bool
}

func trace(r Ruleset, p tracedPacket, draw func(n uint32) uint32) fate {
	t := tracer{ruleset: r, draw: draw, packet: p, fate: fate{Mark: p.mark}}
	for _, c := range r.chains {
		if c.hook != nil && c.hook.name == hookPrerouting {
			t.chain(c.name)
		}
	}
	t.done = false
	for _, c := range r.chains {
		if c.hook != nil && c.hook.name == hookPostrouting {
			t.chain(c.name)
		}
	}
	return t.fate
}

func (t *tracer) chain(name string) {
	for _, r := range t.ruleset.chain(name).rules {
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
			asked := service{ip: t.packet.to, port: t.packet.port}
			for _, e := range t.ruleset.elements {
				if e.service == asked && asked.in() == s.services {
					t.chain(e.chain)
					return true
				}
			}
		case draw:
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
	case marked:
		return t.fate.Mark&c.mask == c.value
	default:
		panic(fmt.Sprintf("the tracer does not know %T", condition))
	}
}

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
		{"the first number of the candidate", "dual", tracedPacket{from: client4, to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x00100000}},
		{"the last number of the candidate", "dual", tracedPacket{from: client6, to: mx6, port: smtp}, 49_999, fate{Counted: []string{"mx/new"}, To: "[2001:db8:2::12]:25", Mark: 0x00100000}},
		{"the first number of the primary", "dual", tracedPacket{from: client4, to: mx4, port: smtp}, 50_000, fate{Counted: []string{"mx/old"}}},
		{"the last number of the primary", "dual", tracedPacket{from: client6, to: mx6, port: smtp}, 999_999, fate{Counted: []string{"mx/old"}}},
		{"another port", "dual", tracedPacket{from: client4, to: mx4, port: submission}, 0, fate{}},
		{"another address", "dual", tracedPacket{from: client4, to: client4, port: smtp}, 0, fate{}},
		{"picked up in the middle", "dual", tracedPacket{from: client4, to: mx4, port: smtp, notSyn: true}, 0, fate{}},
		{"a backend's own flow", "dual", tracedPacket{from: netip.MustParseAddr("10.0.2.12"), to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}}},
		{"the primary's own flow", "remote", tracedPacket{from: netip.MustParseAddr("10.0.1.11"), to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}, To: "10.0.1.11:25", Mark: 0x00100000}},
		{"the bits of others are kept", "dual", tracedPacket{from: client4, to: mx4, port: smtp, mark: 0xff0000ff}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x001000ff}},
		{"the primary elsewhere", "remote", tracedPacket{from: client4, to: mx4, port: smtp}, 50_000, fate{Counted: []string{"mx/old"}, To: "10.0.1.11:25", Mark: 0x00100000}},
		{"masquerade", "masquerade", tracedPacket{from: client6, to: mx6, port: smtp}, 0, fate{Counted: []string{"mx/new"}, To: "[2001:db8:2::12]:25", Mark: 0x00200000, Masquerade: true}},
		{"the second candidate", "several", tracedPacket{from: client4, to: mx4, port: smtp}, 50_000, fate{Counted: []string{"mx/newer"}, To: "10.0.2.13:25", Mark: 0x00100000}},
		{"a changed port", "ports", tracedPacket{from: client4, to: mx4, port: submission}, 0, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:2525", Mark: 0x00100000}},
		{"a changed port by UDP", "ports", tracedPacket{from: client6, to: mx6, port: traffic.Port{Number: 53, Transport: traffic.UDP}}, 0, fate{Counted: []string{"mx/new"}, To: "[2001:db8:2::12]:2525", Mark: 0x00100000}},
		{"the primary is the service itself", "itself", tracedPacket{from: client4, to: mx4, port: submission}, 10_000, fate{Counted: []string{"mx/old"}}},
		{"the primary is the service at one port", "itself", tracedPacket{from: client6, to: mx6, port: submission}, 10_000, fate{Counted: []string{"mx/old"}, To: "[2001:db8::25]:25", Mark: 0x00100000}},
		{"the primary is the other address", "itself", tracedPacket{from: client4, to: netip.MustParseAddr("192.0.2.26"), port: smtp}, 10_000, fate{Counted: []string{"mx/old"}, To: "192.0.2.25:25", Mark: 0x00100000}},
		{"100 %", "whole", tracedPacket{from: client4, to: mx4, port: smtp}, 999_999, fate{Counted: []string{"mx/new"}, To: "10.0.2.12:25", Mark: 0x00100000}},
		{"0 %", "zero", tracedPacket{from: client4, to: mx4, port: smtp}, 0, fate{Counted: []string{"mx/old"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := Build(splits[tc.splits], labSettings)
			got := trace(r, tc.packet, func(uint32) uint32 { return tc.number })
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
