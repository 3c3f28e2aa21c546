package doctor

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// Where a header has its fields: RFC 791 section 3.1, RFC 8200 section 3, RFC
// 9293 section 3.1.
const (
	sourceAt4, destinationAt4 = 12, 16
	sourceAt6, destinationAt6 = 8, 24
	portAt                    = 2
	flagsAt, synFlag          = 13, 0x02
)

func protocolNumber(t traffic.Transport) byte {
	if t == traffic.UDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// registers are nftables' own: 16 words of 4 bytes, of which some are known.
type registers struct {
	data  [64]byte
	known [64]bool
}

// offset of a register: 1 to 4 are 16 bytes each, 8 and up one word each of
// the same memory (enum nft_registers).
func offset(register uint32) int {
	switch {
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(register-unix.NFT_REG32_00) * 4
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(register-unix.NFT_REG_1) * 16
	}
	return len(registers{}.data)
}

// write puts data there, padded with zeros to a whole word; what is beyond
// known stays unknown.
func (r *registers) write(register uint32, data []byte, known []bool) {
	at := offset(register)
	for i := range (len(data) + 3) / 4 * 4 {
		if at+i >= len(r.data) {
			return
		}
		r.data[at+i], r.known[at+i] = 0, true
		if i < len(data) {
			r.data[at+i], r.known[at+i] = data[i], known == nil || known[i]
		}
	}
}

func (r *registers) read(register uint32, length int) ([]byte, bool) {
	at := offset(register)
	if length == 0 || at+length > len(r.data) {
		return nil, false
	}
	return r.data[at : at+length], !slices.Contains(r.known[at:at+length], false)
}

func (r *registers) unknown(register uint32, length int) {
	length = min(length, len(r.data))
	r.write(register, make([]byte, length), make([]bool, length))
}

func (r *registers) load(e expr.Any, p packet) {
	switch e := e.(type) {
	case *expr.Immediate:
		r.write(e.Register, e.Data, nil)
	case *expr.Meta:
		if e.SourceRegister {
			return
		}
		if data := p.meta(e.Key); data != nil {
			r.write(e.Register, data, nil)
			return
		}
		r.unknown(e.Register, 16)
	case *expr.Ct:
		if e.SourceRegister {
			return
		}
		if data := p.tracked(e.Key); data != nil {
			r.write(e.Register, data, nil)
			return
		}
		r.unknown(e.Register, 16)
	case *expr.Payload:
		if e.OperationType == expr.PayloadWrite {
			return
		}
		data, known := p.bytes(e.Base, int(e.Offset), int(e.Len))
		r.write(e.DestRegister, data, known)
	case *expr.Bitwise:
		r.bitwise(e)
	}
}

func (r *registers) bitwise(e *expr.Bitwise) {
	n := min(int(e.Len), len(e.Mask), len(e.Xor))
	source := offset(e.SourceRegister)
	if source+n > len(r.data) || n < int(e.Len) {
		r.unknown(e.DestRegister, int(e.Len))
		return
	}
	data, known := make([]byte, n), make([]bool, n)
	for i := range n {
		data[i] = r.data[source+i]&e.Mask[i] ^ e.Xor[i]
		known[i] = r.known[source+i] || e.Mask[i] == 0
	}
	r.write(e.DestRegister, data, known)
}

func (r *registers) compare(e *expr.Cmp) answer {
	value, ok := r.read(e.Register, len(e.Data))
	if !ok {
		return maybe
	}
	order := bytes.Compare(value, e.Data)
	holds := map[expr.CmpOp]bool{
		expr.CmpOpEq: order == 0, expr.CmpOpNeq: order != 0, expr.CmpOpLt: order < 0,
		expr.CmpOpLte: order <= 0, expr.CmpOpGt: order > 0, expr.CmpOpGte: order >= 0,
	}
	if holds[e.Op] {
		return yes
	}
	return no
}

func (r *registers) inRange(e *expr.Range) answer {
	value, ok := r.read(e.Register, len(e.FromData))
	if !ok {
		return maybe
	}
	inside := bytes.Compare(value, e.FromData) >= 0 && bytes.Compare(value, e.ToData) <= 0
	if inside == (e.Op == expr.CmpOpEq) {
		return yes
	}
	return no
}

func (p packet) meta(key expr.MetaKey) []byte {
	name := func(device string) []byte {
		if device == "" {
			return nil
		}
		return append([]byte(device), make([]byte, unix.IFNAMSIZ-len(device))...)
	}
	switch key { //nolint:exhaustive // the others are not known
	case expr.MetaKeyNFPROTO:
		if p.to.Is4() {
			return []byte{unix.NFPROTO_IPV4}
		}
		return []byte{unix.NFPROTO_IPV6}
	case expr.MetaKeyL4PROTO:
		return []byte{protocolNumber(p.port.Transport)}
	case expr.MetaKeyPROTOCOL:
		if p.to.Is4() {
			return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
		}
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
	case expr.MetaKeyIIFNAME:
		return name(p.in)
	case expr.MetaKeyOIFNAME:
		return name(p.out)
	}
	return nil
}

// tracked is what connection tracking knows of a client's first packet.
func (p packet) tracked(key expr.CtKey) []byte {
	switch key { //nolint:exhaustive // the others are not known
	case expr.CtKeySTATE:
		return binary.NativeEndian.AppendUint32(nil, expr.CtStateBitNEW)
	case expr.CtKeyDIRECTION:
		return []byte{expr.CtDirOriginal}
	case expr.CtKeySTATUS:
		var status uint32
		if p.translated {
			status = 1 << 5 // IPS_DST_NAT
		}
		return binary.NativeEndian.AppendUint32(nil, status)
	}
	return nil
}

// bytes of the packet's headers: destination, protocol and port are known.
func (p packet) bytes(base expr.PayloadBase, from, length int) (data []byte, known []bool) {
	length = min(length, len(registers{}.data))
	data, known = make([]byte, length), make([]bool, length)
	put := func(at int, value []byte) {
		for i, b := range value {
			if at+i >= from && at+i < from+length {
				data[at+i-from], known[at+i-from] = b, true
			}
		}
	}
	switch base { //nolint:exhaustive // nothing else of the packet is known
	case expr.PayloadBaseNetworkHeader:
		protocolAt, destinationAt := 9, destinationAt4
		if p.to.Is6() {
			protocolAt, destinationAt = 6, destinationAt6
		}
		put(protocolAt, []byte{protocolNumber(p.port.Transport)})
		put(destinationAt, p.to.AsSlice())
	case expr.PayloadBaseTransportHeader:
		if !p.port.IsRange() { // of several it is not known which
			put(portAt, binary.BigEndian.AppendUint16(nil, p.port.Number))
		}
		if p.port.Transport == traffic.TCP {
			put(flagsAt, []byte{synFlag})
		}
	}
	return data, known
}
