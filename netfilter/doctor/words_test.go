package doctor

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// Words that other programs' rules are made of in these tests: each is what
// nft or iptables-nft makes of the text in its comment.

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func equal(data ...byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func loadNetwork(at, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: length}
}

// ip daddr TO.
func toAddress(to string) []expr.Any {
	if addr(to).Is6() {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(unix.NFPROTO_IPV6), loadNetwork(destinationAt6, 16), equal(addr(to).AsSlice()...)}
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(unix.NFPROTO_IPV4), loadNetwork(destinationAt4, 4), equal(addr(to).AsSlice()...)}
}

// ip saddr FROM, an address or a network.
func fromNetwork(from string) []expr.Any {
	p, err := netip.ParsePrefix(from)
	if err != nil {
		p = whole(addr(from))
	}
	at, n := uint32(sourceAt4), uint32(4)
	if p.Addr().Is6() {
		at, n = sourceAt6, 16
	}
	if p.Bits() == int(8*n) {
		return []expr.Any{loadNetwork(at, n), equal(p.Addr().AsSlice()...)}
	}
	mask := make([]byte, n)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		loadNetwork(at, n),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: mask, Xor: make([]byte, n)},
		equal(p.Masked().Addr().AsSlice()...),
	}
}

// tcp dport PORT.
func toPort(number uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(unix.IPPROTO_TCP),
		loadPort(), equal(binary.BigEndian.AppendUint16(nil, number)...),
	}
}

func loadPort() *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: portAt, Len: 2}
}

// iifname NAME.
func cameIn(device string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, equal(append([]byte(device), make([]byte, unix.IFNAMSIZ-len(device))...)...)}
}

func jump(to string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to}}
}
func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// reject with icmpx admin-prohibited.
func reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// dnat to 10.0.0.99, another service of the new host, and to a port unless it
// is 0.
func translateToOther(port uint16) []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1}
	all := []expr.Any{&expr.Immediate{Register: 1, Data: []byte{10, 0, 0, 99}}}
	if port != 0 {
		all = append(all, &expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, port)})
		nat.RegProtoMin, nat.Specified = 2, true
	}
	return append(all, nat)
}

// ct state WANTED.
func inState(bits uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, masked(bits, 0), notZero()}
}

const establishedRelated = expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED

// ct status dnat.
func isTranslated() []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, masked(1<<5, 0), notZero()}
}

func notZero() *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)}
}

// (register & mask) ^ xor.
func masked(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(xor),
	}
}

// meta mark set (meta mark & ~MASK) | VALUE.
func setPacketMark(mask, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, masked(^mask, value),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
	}
}

// ct mark set (ct mark & ~MASK) | VALUE.
func setFlowMark(mask, value uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, masked(^mask, value),
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

// words are the 4-byte numbers of an iptables extension.
func words(numbers ...uint32) *xt.Unknown {
	var raw xt.Unknown
	for _, n := range numbers {
		raw = binary.NativeEndian.AppendUint32(raw, n)
	}
	return &raw
}

func byAddress() []traffic.ReturnPath {
	return []traffic.ReturnPath{
		{Name: "four", Via: addr("10.0.0.1"), Device: "eth0", Match: traffic.MatchAddress, Address: addr("10.0.0.200")},
		{Name: "six", Via: addr("fd00::1"), Device: "eth0", Match: traffic.MatchAddress, Address: addr("fd00::200")},
	}
}

func byMark(ports ...traffic.Port) []traffic.ReturnPath {
	return []traffic.ReturnPath{{Name: "four", Via: addr("10.0.0.1"), Device: "eth0", Match: traffic.MatchMark, Ports: ports}}
}

func mxSplit(candidate ...string) traffic.Split {
	s := traffic.Split{
		Name: "mx", Mode: traffic.ModeKernel, Return: traffic.ReturnGateway, Generation: 1,
		Service: traffic.Service{
			Addresses: []netip.Addr{addr("192.0.2.25")},
			Ports:     []traffic.Port{{Number: 25, Transport: traffic.TCP}},
		},
		Primary: traffic.Backend{Name: "old", Local: true},
	}
	backend := traffic.Backend{Name: "new"}
	for _, text := range candidate {
		backend.Addresses = append(backend.Addresses, traffic.Address{IP: addr(text)})
		if addr(text).Is6() {
			s.Service.Addresses = append(s.Service.Addresses, addr("2001:db8::25"))
		}
	}
	s.Candidates = []traffic.Backend{backend}
	return s
}

var settings = netfilter.Settings{MarkMask: 0xfff00000, RouteTable: 5300, RulePriority: 5200}

func about(splits []traffic.Split, paths []traffic.ReturnPath) Question {
	return Question{Splits: splits, Paths: paths, Settings: settings, IncludeDir: "/run/splitd"}
}

// ruleset writes another program's table.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
}

func newRuleset(conn *nftables.Conn, family nftables.TableFamily, name string) ruleset {
	return ruleset{conn, conn.AddTable(&nftables.Table{Family: family, Name: name})}
}

func (r ruleset) hook(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int, policy nftables.ChainPolicy, rules ...[]expr.Any) {
	at := nftables.ChainPriority(priority)
	chain := r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: &at, Policy: &policy})
	r.rules(chain, rules)
}

func (r ruleset) chain(name string, rules ...[]expr.Any) {
	r.rules(r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table}), rules)
}

func (r ruleset) rules(chain *nftables.Chain, rules [][]expr.Any) {
	for _, exprs := range rules {
		r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: exprs})
	}
}
