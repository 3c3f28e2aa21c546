package netfilter

import "math/bits"

// The tables of ours, all of family inet. Every table whose name begins with
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
	// priorityKeeper is behind every other program's translation.
	priorityKeeper = 300
)

// Protocol marks the ip rules and routes that are ours (rtm_protocol, RFC 3549
// section 2.3.1; free in /etc/iproute2/rt_protos).
const Protocol = 83

// ReturnsMax is the number of return paths that a host can have: each has a
// mark class and a route table of its own.
const ReturnsMax = 16

// Settings are the numbers of this host that are ours to use.
type Settings struct {
	// MarkMask are the bits of packet and conntrack marks that are ours; all
	// other bits are kept as they are. It needs at least 5 bits.
	MarkMask uint32
	// RouteTable is the first of ReturnsMax route tables.
	RouteTable int
	// RulePriority is the first of 20 priorities of ip rules.
	RulePriority int
}

// A markClass says what a flow's mark tells about it. Classes, not numbers of
// backends: 12 bits must serve any number of splits.
type markClass uint32

// The classes. A flow that stays on this host has none.
const (
	classRemote     markClass = 1  // sent to another host
	classMasquerade markClass = 2  // sent to another host with our source address
	classReturn     markClass = 16 // the first of ReturnsMax: came in for return path i
)

// returnClass is the class of the flows of return path i.
func returnClass(i int) markClass { return classReturn + markClass(i) }

// mark is the class as it stands in the bits of the mask, lowest bit first.
func (s Settings) mark(class markClass) uint32 {
	var mark uint32
	for mask := s.MarkMask; mask != 0 && class != 0; mask &= mask - 1 {
		mark |= uint32(class&1) << bits.TrailingZeros32(mask)
		class >>= 1
	}
	return mark
}

// keep are the bits of a mark that are not ours.
func (s Settings) keep() uint32 { return ^s.MarkMask }
