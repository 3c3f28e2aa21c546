package netfilter

import (
	"math/bits"

	"github.com/splitd/splitd/traffic"
)

// The tables of ours, all of family inet but those of mirrors. Every table whose name begins with
// "splitd" is ours, every other is left alone.
const (
	// TableSplits holds the splits: what sends new flows to backends.
	TableSplits = "splitd"
	// TableReturn marks the flows whose replies must go back through a router
	// (return paths that match by mark).
	TableReturn = "splitd_return"
	// TableKeeper keeps translated flows alive after TableSplits is gone: the
	// kernel resets them with its last nat chain.
	TableKeeper = "splitd_keeper"
)

// Priorities of our hooks, relative to the standard ones of nft(8).
const (
	// prioritySplit is dstnat - 5: before the rules of Docker and iptables
	// (dstnat, -100), because the first destination translation wins.
	prioritySplit = -105
	// priorityMasquerade is srcnat - 5.
	priorityMasquerade = 95
	// priorityReturn is mangle - 5: after conntrack (-200) and before the
	// routing decision.
	priorityReturn = -155
	// priorityDivert is dstnat + 5: when a destination has been translated, by
	// whomever, the packet can still be handed to a relay as it is.
	priorityDivert = -95
	// priorityDivertLocal is mangle: after conntrack.
	priorityDivertLocal = -150
	// priorityLegs is mangle: after conntrack and before the routing decision.
	priorityLegs = -150
	// priorityKeeper is behind every other program's translation.
	priorityKeeper = 300
)

// Protocol marks the ip rules and routes that are ours (rtm_protocol, RFC 3549
// section 2.3.1; free in /etc/iproute2/rt_protos).
const Protocol = 83

// ReturnsMax is the number of return paths that a host can have: each has a
// mark class and a route table of its own.
const ReturnsMax = 15

// RouteTables is the number of route tables that are ours: one for each return
// path, and one for what relays take.
const RouteTables = ReturnsMax + 1

// Settings are the numbers of this host that are ours to use.
type Settings struct {
	// MarkMask are the bits of packet and conntrack marks that are ours; all
	// other bits are kept as they are. It needs at least 6 bits.
	MarkMask uint32
	// RouteTable is the first of RouteTables route tables.
	RouteTable int
	// RulePriority is the first of 20 priorities of ip rules.
	RulePriority int
	// Owner is OwnerAuto, or anything else for tables that every program may
	// change.
	Owner string
}

// OwnerAuto keeps the tables of the splits for the process that programs them,
// where the kernel can (Linux 6.9).
const OwnerAuto = "auto"

// A markClass says what a flow's mark tells about it. Classes, not numbers of
// backends: 12 bits must serve any number of splits. The backend is told by
// the reply tuple of the conntrack entry.
type markClass uint32

// The classes. A flow that stays on this host has none.
const (
	classRemote     markClass = 1  // sent to another host
	classMasquerade markClass = 2  // sent to another host with our source address
	classSampled    markClass = 3  // the primary's, handed to a local relay, which shadows it
	classLeg        markClass = 4  // a local relay's own flow to the primary
	classSampledOut markClass = 5  // as classSampled, masqueraded where no relay listens
	classCheck      markClass = 6  // a health check, which is nobody's flow
	classReturn     markClass = 16 // the first of ReturnsMax: came in for return path i
)

// returnClass is the class of the flows of return path i.
func returnClass(i int) markClass { return classReturn + markClass(i) }

// mark is the class as it stands in the bits of ClassMask, lowest bit first.
func (s Settings) mark(class markClass) uint32 { return deposit(uint32(class), s.ClassMask()) }

// classBits is the number of mark bits that the classes need.
const classBits = 5

// ClassMask are the bits that hold a class, the highest ones of the mask:
// other programs take marks from below, and whoever changes a class leads a
// flow astray. They are all of ours that a packet's mark has.
func (s Settings) ClassMask() uint32 {
	mask := s.MarkMask
	for n := bits.OnesCount32(mask); n > classBits; n-- {
		mask &= mask - 1
	}
	return mask
}

// generationMask are the other bits of the mask, which hold the generation of
// the split that drew the flow, in conntrack's marks alone; there is at least
// one. No rule looks at them, so another program that changes them harms
// nothing but evidence.
func (s Settings) generationMask() uint32 { return s.MarkMask &^ s.ClassMask() }

// generations is how many generations a mark can tell apart: 127 with the
// twelve bits of the default mask. A flow is of the youngest one that fits.
func (s Settings) generations() uint32 { return 1<<bits.OnesCount32(s.generationMask()) - 1 }

// generationMark is what the flows of a generation carry. It is never 0, which
// is what flows carry that no version of a split has seen.
func (s Settings) generationMark(g traffic.Generation) uint32 {
	return deposit(uint32(uint64(g)%uint64(s.generations()))+1, s.generationMask())
}

// generationIn returns the generation that the mark of a flow tells, as the
// youngest that is not younger than now; false when it tells none.
func (s Settings) generationIn(mark uint32, now traffic.Generation) (traffic.Generation, bool) {
	number := extract(mark, s.generationMask())
	if number == 0 {
		return 0, false
	}
	most := uint64(s.generations())
	age := (uint64(now)%most + most - uint64(number-1)) % most
	if age > uint64(now) {
		return 0, false
	}
	return now - traffic.Generation(age), true
}

// deposit spreads the bits of a number over those of the mask, lowest first.
func deposit(number, mask uint32) uint32 {
	var spread uint32
	for ; mask != 0 && number != 0; mask &= mask - 1 {
		spread |= (number & 1) << bits.TrailingZeros32(mask)
		number >>= 1
	}
	return spread
}

// extract is the number that deposit spread.
func extract(spread, mask uint32) uint32 {
	var number uint32
	for i := 0; mask != 0; mask &= mask - 1 {
		number |= spread >> bits.TrailingZeros32(mask) & 1 << i
		i++
	}
	return number
}

// LegMark is the packet mark (SO_MARK) that a relay on this host gives its own
// flow to the primary, so that it may have the client's address.
func (s Settings) LegMark() uint32 { return s.mark(classLeg) }

// CheckMark is the packet mark of what this host itself sends to a backend to
// see how it is: that of flows sent to another host, so that a rule for those
// can be one for their checks.
func (s Settings) CheckMark() uint32 { return s.mark(classRemote) }

// keep are the bits of a mark that setting a class leaves as they are.
func (s Settings) keep() uint32 { return ^s.ClassMask() }
