package netfilter

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/traffic"
)

// A statement is one part of a rule: a condition or an action. It has two back
// ends: the text that nft prints for it, and the expressions that the kernel
// takes for it (expressions.go).
type statement interface {
	text() string
	expressions() []expr.Any
}

// A rule is read from left to right until a condition does not hold.
type rule struct {
	statements []statement
	comment    string // at most commentMax bytes
}

// commentMax is what nft 1.0.6 accepts (NFTNL_UDATA_COMMENT_MAXLEN); the kernel
// would take 253 bytes.
const commentMax = 128

func (r rule) text() string {
	parts := make([]string, 0, len(r.statements)+1)
	for _, s := range r.statements {
		parts = append(parts, s.text())
	}
	if r.comment != "" {
		parts = append(parts, `comment "`+r.comment+`"`)
	}
	return strings.Join(parts, " ")
}

// The conditions.
type (
	// notSyn holds for TCP packets that do not open a connection. A packet of
	// a connection that conntrack has lost is picked up as a new flow
	// (nf_conntrack_tcp_loose) and must not be drawn again.
	notSyn struct{}
	// source and destination hold for packets from and to the address.
	source      struct{ ip netip.Addr }
	destination struct{ ip netip.Addr }
	// destinationPort holds for packets to the port.
	destinationPort struct{ port traffic.Port }
	// transport holds for packets of the transport.
	transport struct{ name traffic.Transport }
	// marked holds for flows whose conntrack mark has the value in the bits of
	// the mask.
	marked struct{ mask, value uint32 }
	// packetMarked holds for packets whose own mark has the value in the bits of
	// the mask.
	packetMarked struct{ mask, value uint32 }
	// established holds for packets of flows that have been answered.
	established struct{}
	// member holds for packets from a network in the set of a group.
	member struct{ set string }
	// oneIn holds for one in so many draws.
	oneIn struct {
		by lot
		of uint32
	}
)

// The actions.
type (
	// count adds the packet to a named counter.
	count struct{ name string }
	// countHere adds the packet to a counter of the rule itself.
	countHere struct{}
	// markFlow sets the conntrack mark to value and leaves the bits of keep.
	markFlow struct{ keep, value uint32 }
	// translate sends the flow to another address, and to another port unless
	// that is 0. Packets of the other family pass unharmed.
	translate struct {
		to   netip.Addr
		port uint16
	}
	// masquerade gives the flow our own source address.
	masquerade struct{}
	// dispatch goes where the map of services says for the packet's
	// destination; no entry, nothing happens.
	dispatch struct{ services serviceMap }
	// setTimeout lets the flow be forgotten after other silences than the host's,
	// if it is one of UDP.
	setTimeout struct{ name string }
	// dispatchOriginal goes where the map of services says for what the client of
	// the flow asked for, wherever the packet is sent now. The transport, which a
	// port of conntrack's is nothing without, is that of the packet.
	dispatchOriginal struct {
		services  serviceMap
		transport traffic.Transport
	}
	// handOver gives the packet to a transparent socket of this host: the one
	// that has the connection, else the one that listens at the address. Without
	// one the rule ends there, as if a condition did not hold (nft_tproxy.c).
	handOver struct{ to netip.AddrPort }
	// draw goes to one of several chains. A number that is in no share is no
	// one's: the next rule is looked at.
	draw struct {
		by     lot
		shares []share
	}
	// verdict ends the chain.
	verdict struct {
		kind  expr.VerdictKind
		chain string
	}
)

// A lot is where the number of a draw comes from: the zero lot is random and
// anew for each packet, any other is a hash of the client's network.
type lot struct {
	prefix int // bits of the client's address, a multiple of 8; 0: random
	six    bool
	seed   uint32
}

// A share is what a draw gives to a chain: the numbers from first to last of
// the million.
type share struct {
	first, last uint32
	chain       string
}

func accept() verdict             { return verdict{kind: expr.VerdictAccept} }
func back() verdict               { return verdict{kind: expr.VerdictReturn} }
func jumpTo(chain string) verdict { return verdict{kind: expr.VerdictJump, chain: chain} }
func goTo(chain string) verdict   { return verdict{kind: expr.VerdictGoto, chain: chain} }
func hex(mark uint32) string      { return fmt.Sprintf("0x%08x", mark) }
func ipFamily(ip netip.Addr) string {
	if ip.Is4() {
		return "ip"
	}
	return "ip6"
}

func (notSyn) text() string        { return "tcp flags != syn / fin,syn,rst,ack" }
func (s source) text() string      { return ipFamily(s.ip) + " saddr " + s.ip.String() }
func (s destination) text() string { return ipFamily(s.ip) + " daddr " + s.ip.String() }
func (s destinationPort) text() string {
	return fmt.Sprintf("%s dport %d", s.port.Transport, s.port.Number)
}
func (s setTimeout) text() string { return `meta l4proto udp ct timeout set "` + s.name + `"` }
func (s oneIn) text() string      { return fmt.Sprintf("%s 0", s.by.text(s.of)) }
func (s member) text() string {
	family := "ip"
	if groupIs6(s.set) {
		family = "ip6"
	}
	return family + " saddr @" + s.set
}

// A whole address is listed by its name, which tells the family; part of one
// as bits of the header, which does not.
func (l lot) text(modulus uint32) string {
	address, family := "ip saddr", "ipv4"
	offset, width := offsetSource4, 32
	if l.six {
		address, family, offset, width = "ip6 saddr", "ipv6", offsetSource6, 128
	}
	switch l.prefix {
	case 0:
		return fmt.Sprintf("numgen random mod %d", modulus)
	case width:
		return fmt.Sprintf("jhash %s mod %d seed 0x%x", address, modulus, l.seed)
	}
	return fmt.Sprintf("meta nfproto %s jhash @nh,%d,%d mod %d seed 0x%x", family, 8*offset, l.prefix, modulus, l.seed)
}
func (s transport) text() string { return "meta l4proto " + string(s.name) }
func (established) text() string { return "ct state established" }
func (s count) text() string     { return `counter name "` + s.name + `"` }
func (countHere) text() string   { return "counter" }
func (masquerade) text() string  { return "masquerade" }

// A mask of leading bits is listed as a prefix length.
func (s marked) text() string {
	for bits := 1; bits < 32; bits++ {
		if s.mask == ^uint32(0)<<(32-bits) {
			return fmt.Sprintf("ct mark %s/%d", hex(s.value), bits)
		}
	}
	return "ct mark & " + hex(s.mask) + " == " + hex(s.value)
}

func (s packetMarked) text() string {
	return "meta " + strings.TrimPrefix(marked(s).text(), "ct ")
}

// The kernel holds (mark & keep) ^ value; nft lists that as and-then-or.
func (s markFlow) text() string {
	return "ct mark set ct mark & " + hex(s.keep|s.value) + " | " + hex(s.value)
}

func (s translate) text() string {
	to := s.to.String()
	if s.port != 0 {
		to = netip.AddrPortFrom(s.to, s.port).String()
	}
	return "dnat " + ipFamily(s.to) + " to " + to
}

func (s dispatch) text() string {
	return s.services.family() + " daddr . meta l4proto . th dport vmap @" + s.services.name()
}

func (s dispatchOriginal) text() string {
	return "meta l4proto " + string(s.transport) + " ct original " + s.services.family() +
		" daddr . meta l4proto . ct original proto-dst vmap @" + s.services.name()
}

func (s handOver) text() string {
	return "tproxy " + ipFamily(s.to.Addr()) + " to " + s.to.String()
}

func (s draw) text() string {
	parts := make([]string, 0, len(s.shares))
	for _, p := range s.shares {
		parts = append(parts, p.text())
	}
	return fmt.Sprintf("%s vmap { %s }", s.by.text(uint32(traffic.Whole)), strings.Join(parts, ", "))
}

func (p share) text() string {
	numbers := strconv.Itoa(int(p.first))
	if p.last != p.first {
		numbers += "-" + strconv.Itoa(int(p.last))
	}
	return numbers + " : goto " + p.chain
}

func (s verdict) text() string {
	switch s.kind { //nolint:exhaustive // the kinds that the constructors above make
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictJump:
		return "jump " + s.chain
	default:
		return "goto " + s.chain
	}
}
