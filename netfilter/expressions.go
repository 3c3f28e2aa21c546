package netfilter

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// The expressions are those that nft 1.0.6 makes of the same text (nft
// --debug=netlink), registers included, so that both list alike.

// Offsets into the headers: RFC 791 section 3.1, RFC 8200 section 3, RFC 9293
// section 3.1.
const (
	offsetSource4, offsetDestination4 = 12, 16
	offsetSource6, offsetDestination6 = 8, 24
	offsetDestinationPort             = 2
	offsetTCPFlags                    = 13
	tcpFin, tcpSyn, tcpRst, tcpAck    = 0x01, 0x02, 0x04, 0x10
)

// Registers: 1 to 4 hold 16 bytes each, 8 and up are the same memory in words
// of 4 bytes. A concatenated key lies in consecutive words.
const (
	register1         = 1
	register2         = 2
	register4Protocol = 9  // behind the 4 bytes of an IPv4 address in register 1
	register4Port     = 10 // behind that
	register6Protocol = 2  // behind the 16 bytes of an IPv6 address in register 1
	register6Port     = 13 // behind that
)

func equal(data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register1, Data: data}
}

func loadMeta(key expr.MetaKey, register uint32) *expr.Meta {
	return &expr.Meta{Key: key, Register: register}
}

func loadNetwork(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func loadTransport(register, offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

func ofFamily(six bool) []expr.Any {
	family := byte(unix.NFPROTO_IPV4)
	if six {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{loadMeta(expr.MetaKeyNFPROTO, register1), equal(family)}
}

func ofTransport(t traffic.Transport) []expr.Any {
	return []expr.Any{loadMeta(expr.MetaKeyL4PROTO, register1), equal(protocolNumber(t))}
}

func protocolNumber(t traffic.Transport) byte {
	if t == traffic.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func (notSyn) expressions() []expr.Any {
	return append(ofTransport(traffic.TCP),
		loadTransport(register1, offsetTCPFlags, 1),
		&expr.Bitwise{
			SourceRegister: register1, DestRegister: register1, Len: 1,
			Mask: []byte{tcpFin | tcpSyn | tcpRst | tcpAck}, Xor: []byte{0},
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register1, Data: []byte{tcpSyn}})
}

func (s source) expressions() []expr.Any {
	return matchAddress(s.ip, offsetSource4, offsetSource6)
}

func (s destination) expressions() []expr.Any {
	return matchAddress(s.ip, offsetDestination4, offsetDestination6)
}

func matchAddress(ip netip.Addr, offset4, offset6 uint32) []expr.Any {
	load := loadNetwork(offset4, 4)
	if ip.Is6() {
		load = loadNetwork(offset6, 16)
	}
	return append(ofFamily(ip.Is6()), load, equal(ip.AsSlice()...))
}

func (s destinationPort) expressions() []expr.Any {
	return append(ofTransport(s.port.Transport),
		loadTransport(register1, offsetDestinationPort, 2),
		equal(binaryutil.BigEndian.PutUint16(s.port.Number)...))
}

func (s transport) expressions() []expr.Any { return ofTransport(s.name) }

func (s marked) expressions() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register1},
		maskMark(s.mask, 0),
		equal(binaryutil.NativeEndian.PutUint32(s.value)...),
	}
}

func (s packetMarked) expressions() []expr.Any {
	matching := marked(s).expressions()
	matching[0] = &expr.Meta{Key: expr.MetaKeyMARK, Register: register1}
	return matching
}

// maskMark computes (mark & mask) ^ xor.
func maskMark(mask, xor uint32) *expr.Bitwise {
	return &expr.Bitwise{
		SourceRegister: register1, DestRegister: register1, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(xor),
	}
}

func (established) expressions() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register1},
		maskMark(expr.CtStateBitESTABLISHED, 0),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

func (s count) expressions() []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: s.name}}
}

func (countHere) expressions() []expr.Any { return []expr.Any{&expr.Counter{}} }

func (s markFlow) expressions() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: register1},
		maskMark(s.keep, s.value),
		&expr.Ct{Key: expr.CtKeyMARK, Register: register1, SourceRegister: true},
	}
}

func (s translate) expressions() []expr.Any {
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: register1}
	if s.to.Is6() {
		nat.Family = unix.NFPROTO_IPV6
	}
	all := []expr.Any{&expr.Immediate{Register: register1, Data: s.to.AsSlice()}}
	if s.port != 0 {
		all = append(all, &expr.Immediate{Register: register2, Data: binaryutil.BigEndian.PutUint16(s.port)})
		nat.RegProtoMin, nat.Specified = register2, true
	}
	return append(all, nat)
}

func (masquerade) expressions() []expr.Any { return []expr.Any{&expr.Masq{}} }

func (s dispatch) expressions() []expr.Any {
	six := s.services.six
	address, protocol, port := loadNetwork(offsetDestination4, 4), uint32(register4Protocol), uint32(register4Port)
	if six {
		address, protocol, port = loadNetwork(offsetDestination6, 16), register6Protocol, register6Port
	}
	return append(ofFamily(six), address,
		loadMeta(expr.MetaKeyL4PROTO, protocol),
		loadTransport(port, offsetDestinationPort, 2),
		&expr.Lookup{SourceRegister: register1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: s.services.name()})
}

func (s dispatchOriginal) expressions() []expr.Any {
	address, protocol, port := expr.CtKeyDSTIP, uint32(register4Protocol), uint32(register4Port)
	if s.services.six {
		address, protocol, port = expr.CtKeyDSTIP6, register6Protocol, register6Port
	}
	return append(ofTransport(s.transport),
		&expr.Ct{Key: address, Register: register1}, // of direction 0, the original one
		loadMeta(expr.MetaKeyL4PROTO, protocol),
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: port},
		&expr.Lookup{SourceRegister: register1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: s.services.name()})
}

func (s handOver) expressions() []expr.Any {
	family := byte(unix.NFPROTO_IPV4)
	if s.to.Addr().Is6() {
		family = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Immediate{Register: register1, Data: s.to.Addr().AsSlice()},
		&expr.Immediate{Register: register2, Data: binaryutil.BigEndian.PutUint16(s.to.Port())},
		&expr.TProxy{Family: family, TableFamily: unix.NFPROTO_INET, RegAddr: register1, RegPort: register2},
	}
}

// expressions leave a number below the modulus in register 1.
func (l lot) expressions(modulus uint32) []expr.Any {
	if l.prefix == 0 {
		return []expr.Any{&expr.Numgen{Register: register1, Modulus: modulus, Type: unix.NFT_NG_RANDOM}}
	}
	offset, length := uint32(offsetSource4), uint32(l.prefix/8)
	if l.six {
		offset = offsetSource6
	}
	return append(ofFamily(l.six),
		&expr.Payload{DestRegister: register2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Hash{
			SourceRegister: register2, DestRegister: register1, Length: length,
			Modulus: modulus, Seed: l.seed, Type: expr.HashTypeJenkins,
		})
}

// The last expression looks up an anonymous map that does not exist yet: who
// writes the rule makes the map first and puts its name and id there.
func (s draw) expressions() []expr.Any {
	return append(s.by.expressions(uint32(traffic.Whole)),
		// An interval map compares keys as big-endian numbers.
		&expr.Byteorder{SourceRegister: register1, DestRegister: register1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Lookup{SourceRegister: register1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true})
}

func (s oneIn) expressions() []expr.Any {
	return append(s.by.expressions(s.of), equal(binaryutil.NativeEndian.PutUint32(0)...))
}

func (s member) expressions() []expr.Any {
	six := groupIs6(s.set)
	load := loadNetwork(offsetSource4, 4)
	if six {
		load = loadNetwork(offsetSource6, 16)
	}
	return append(ofFamily(six), load, &expr.Lookup{SourceRegister: register1, SetName: s.set})
}

func (s setTimeout) expressions() []expr.Any {
	return append(ofTransport(traffic.UDP), &expr.Objref{Type: unix.NFT_OBJECT_CT_TIMEOUT, Name: s.name})
}

func (s verdict) expressions() []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: s.kind, Chain: s.chain}}
}
