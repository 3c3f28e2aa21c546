package netfilter

import (
	"fmt"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The statements of the marking table.
type (
	// direction holds for packets of the flow's original or reply direction.
	direction struct{ reply bool }
	// newFlow holds for the first packets of a flow, until it is answered.
	newFlow struct{}
	// addressed holds for packets of the family.
	addressed struct{ six bool }
	// incoming holds for packets that came in by the device.
	incoming struct{ device string }
	// fromNeighbour holds for Ethernet frames whose sender is in the set.
	fromNeighbour struct{ set string }
	// noEthernet holds for packets by a device without Ethernet addresses.
	noEthernet struct{}
	// markPacket sets the packet mark to value and leaves the bits of keep.
	markPacket struct{ keep, value uint32 }
)

func (s direction) text() string {
	if s.reply {
		return "ct direction reply"
	}
	return "ct direction original"
}

func (s direction) expressions() []expr.Any {
	which := byte(expr.CtDirOriginal)
	if s.reply {
		which = expr.CtDirReply
	}
	return []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: register1}, equal(which)}
}

func (newFlow) text() string { return "ct state new" }

func (newFlow) expressions() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register1},
		maskMark(expr.CtStateBitNEW, 0),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

func (s addressed) text() string {
	if s.six {
		return "meta nfproto ipv6"
	}
	return "meta nfproto ipv4"
}

func (s addressed) expressions() []expr.Any { return ofFamily(s.six) }

func (s incoming) text() string { return fmt.Sprintf("iifname %q", s.device) }

func (s incoming) expressions() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, s.device)
	return []expr.Any{loadMeta(expr.MetaKeyIIFNAME, register1), equal(name...)}
}

func (s fromNeighbour) text() string { return "ether saddr @" + s.set }

func (s fromNeighbour) expressions() []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyIIFTYPE, register1),
		equal(binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)...),
		&expr.Payload{DestRegister: register1, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Lookup{SourceRegister: register1, SetName: s.set},
	}
}

func (noEthernet) text() string { return "meta iiftype != ether" }

func (noEthernet) expressions() []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyIIFTYPE, register1),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register1, Data: binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)},
	}
}

// The kernel holds (mark & keep) ^ value; nft lists that as and-then-or.
func (s markPacket) text() string {
	return "meta mark set meta mark & " + hex(s.keep|s.value) + " | " + hex(s.value)
}

func (s markPacket) expressions() []expr.Any {
	return []expr.Any{
		loadMeta(expr.MetaKeyMARK, register1),
		maskMark(s.keep, s.value),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register1, SourceRegister: true},
	}
}
