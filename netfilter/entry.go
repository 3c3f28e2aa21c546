package netfilter

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// An entry is what one message of conntrack says of a flow. It holds no
// pointer into the message.
type entry struct {
	original, reply tuple
	id              uint32 // 0 where the kernel did not say
	mark            uint32
	status          uint32
	tcpState        uint8 // 0 where there is none
	timeout         uint32
	zone            uint16
	counted         bool // the kernel counts bytes (nf_conntrack_acct)
	in, out         tally
	start, stop     uint64 // nanoseconds since 1970 (nf_conntrack_timestamp), or 0
}

// A tuple is one direction of a flow.
type tuple struct {
	protocol         uint8
	source, target   netip.Addr
	fromPort, toPort uint16
}

// A tally is what one direction of a flow carried.
type tally struct{ packets, bytes uint64 }

// The attributes of a conntrack message that are read
// (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoInfo     = 4
	ctaTimeout       = 7
	ctaMark          = 8
	ctaCountersOrig  = 9
	ctaCountersReply = 10
	ctaID            = 12
	ctaZone          = 18
	ctaTimestamp     = 20
	ctaMarkMask      = 21
	ctaStatusMask    = 26

	ctaTupleIP, ctaTupleProto                      = 1, 2
	ctaIPv4Source, ctaIPv4Target                   = 1, 2
	ctaIPv6Source, ctaIPv6Target                   = 3, 4
	ctaProtoNumber, ctaProtoSource, ctaProtoTarget = 1, 2, 3
	ctaProtoInfoTCP, ctaTCPState                   = 1, 1
	ctaCounterPackets, ctaCounterBytes             = 1, 2
	ctaTimestampStart, ctaTimestampStop            = 1, 2
)

// The bits of an entry's status that are looked at (enum ip_conntrack_status,
// linux/netfilter/nf_conntrack_common.h).
const statusSeenReply = 1 << 1

// States of a TCP entry (enum tcp_conntrack, linux/netfilter/nf_conntrack_tcp.h).
const (
	tcpSynSent  = 1
	tcpSynRecv  = 2
	tcpTimeWait = 7
	tcpClose    = 8
	tcpSynSent2 = 9
)

// attributeKind are the bits of an attribute's type that are no flags
// (NLA_TYPE_MASK, linux/netlink.h).
const attributeKind = 1<<14 - 1

var errShort = errors.New("a conntrack message ends in the middle of an attribute")

// attributes walks over the netlink attributes of a message (linux/netlink.h,
// struct nlattr); each gets their type without flags, and their content.
func attributes(b []byte, each func(kind uint16, content []byte) error) error {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return errShort
		}
		kind := binary.NativeEndian.Uint16(b[2:]) & attributeKind
		if err := each(kind, b[unix.SizeofNlAttr:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	if len(b) > 0 {
		return errShort
	}
	return nil
}

// parse reads the attributes of a conntrack message, those after the nfgenmsg,
// over whatever was there. It allocates nothing: there may be a million.
func (e *entry) parse(message []byte) error {
	*e = entry{}
	return attributes(message, e.attribute)
}

func (e *entry) attribute(kind uint16, content []byte) error {
	switch kind {
	case ctaTupleOrig:
		return attributes(content, e.original.attribute)
	case ctaTupleReply:
		return attributes(content, e.reply.attribute)
	case ctaCountersOrig:
		e.counted = true
		return attributes(content, e.in.attribute)
	case ctaCountersReply:
		e.counted = true
		return attributes(content, e.out.attribute)
	case ctaProtoInfo:
		return attributes(content, e.protoInfo)
	case ctaTimestamp:
		return attributes(content, e.timestamp)
	case ctaStatus:
		return number32(content, &e.status)
	case ctaMark:
		return number32(content, &e.mark)
	case ctaTimeout:
		return number32(content, &e.timeout)
	case ctaID:
		return number32(content, &e.id)
	case ctaZone:
		return number16(content, &e.zone)
	}
	return nil
}

func (e *entry) protoInfo(kind uint16, content []byte) error {
	if kind != ctaProtoInfoTCP {
		return nil
	}
	return attributes(content, func(kind uint16, content []byte) error {
		if kind == ctaTCPState && len(content) == 1 {
			e.tcpState = content[0]
		}
		return nil
	})
}

func (e *entry) timestamp(kind uint16, content []byte) error {
	switch kind {
	case ctaTimestampStart:
		return number64(content, &e.start)
	case ctaTimestampStop:
		return number64(content, &e.stop)
	}
	return nil
}

func (t *tuple) attribute(kind uint16, content []byte) error {
	switch kind {
	case ctaTupleIP:
		return attributes(content, t.address)
	case ctaTupleProto:
		return attributes(content, t.proto)
	}
	return nil
}

func (t *tuple) address(kind uint16, content []byte) error {
	ip, ok := netip.AddrFromSlice(content)
	switch kind {
	case ctaIPv4Source, ctaIPv6Source:
		t.source = ip.Unmap()
	case ctaIPv4Target, ctaIPv6Target:
		t.target = ip.Unmap()
	default:
		return nil
	}
	if !ok {
		return errShort
	}
	return nil
}

func (t *tuple) proto(kind uint16, content []byte) error {
	switch kind {
	case ctaProtoNumber:
		if len(content) != 1 {
			return errShort
		}
		t.protocol = content[0]
	case ctaProtoSource:
		return number16(content, &t.fromPort)
	case ctaProtoTarget:
		return number16(content, &t.toPort)
	}
	return nil
}

func (t *tally) attribute(kind uint16, content []byte) error {
	switch kind {
	case ctaCounterPackets:
		return number64(content, &t.packets)
	case ctaCounterBytes:
		return number64(content, &t.bytes)
	}
	return nil
}

func number16(content []byte, n *uint16) error {
	if len(content) != 2 {
		return errShort
	}
	*n = binary.BigEndian.Uint16(content)
	return nil
}

func number32(content []byte, n *uint32) error {
	if len(content) != 4 {
		return errShort
	}
	*n = binary.BigEndian.Uint32(content)
	return nil
}

func number64(content []byte, n *uint64) error {
	if len(content) != 8 {
		return errShort
	}
	*n = binary.BigEndian.Uint64(content)
	return nil
}

// transport is what the flow is carried by, if it is one of ours.
func (e *entry) transport() (traffic.Transport, bool) {
	switch e.original.protocol {
	case unix.IPPROTO_TCP:
		return traffic.TCP, true
	case unix.IPPROTO_UDP:
		return traffic.UDP, true
	}
	return "", false
}

// asks is what the client of the flow asked for, and of whom.
func (e *entry) service() netip.AddrPort {
	return netip.AddrPortFrom(e.original.target, e.original.toPort)
}

func (e *entry) client() netip.AddrPort {
	return netip.AddrPortFrom(e.original.source, e.original.fromPort)
}

// server is who answers the flow.
func (e *entry) server() netip.AddrPort {
	return netip.AddrPortFrom(e.reply.source, e.reply.fromPort)
}

// answered says that a packet came back. An entry that a reset alone answered
// is not: conntrack removes it before it notes a reply.
func (e *entry) answered() bool { return e.status&statusSeenReply != 0 }

// open says whether the flow goes on: TCP keeps entries a while afterwards.
func (e *entry) open() bool { return e.tcpState != tcpTimeWait && e.tcpState != tcpClose }

// halfOpen says that the flow waits for its first answer.
func (e *entry) halfOpen() bool { return e.open() && !e.answered() }
