package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A conntrackSocket asks the kernel for conntrack's entries and has it delete
// some. It reads into one buffer and hands out one entry at a time, because a
// busy router has hundreds of thousands: a library that returns a list makes
// 217 MB of garbage of 100,000. One user at a time.
type conntrackSocket struct {
	fd       int
	sequence uint32
	buffer   []byte
}

// conntrackBuffer holds what the kernel gives at once: it fills at most 32 KiB
// (NLMSG_GOODSIZE and netlink_dump in net/netlink/af_netlink.c).
const conntrackBuffer = 64 << 10

// conntrackPatience is how long the kernel may take for one answer.
const conntrackPatience = 5 * time.Second

// Messages of ctnetlink (linux/netfilter/nfnetlink_conntrack.h).
const (
	ctNew    = unix.NFNL_SUBSYS_CTNETLINK << 8
	ctGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	ctDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2
)

func openConntrackSocket() (*conntrackSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open conntrack: %w", err)
	}
	s := &conntrackSocket{fd: fd, buffer: make([]byte, conntrackBuffer)}
	patience := unix.NsecToTimeval(conntrackPatience.Nanoseconds())
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	if err != nil {
		s.close()
		return nil, fmt.Errorf("open conntrack: %w", err)
	}
	return s, nil
}

func (s *conntrackSocket) close() { _ = unix.Close(s.fd) }

// A conntrackFilter is what the kernel looks at before it tells of an entry.
// The zero filter lets every entry pass.
type conntrackFilter struct {
	family             uint8  // unix.AF_INET, unix.AF_INET6, or 0 for both
	mark, markMask     uint32 // Linux 3.x for lists
	status, statusMask uint32 // Linux 5.15; older kernels tell of all
}

func (f conntrackFilter) attributes() []byte {
	var b []byte
	if f.markMask != 0 {
		b = appendNumber(b, ctaMark, f.mark)
		b = appendNumber(b, ctaMarkMask, f.markMask)
	}
	if f.statusMask != 0 {
		b = appendNumber(b, ctaStatus, f.status)
		b = appendNumber(b, ctaStatusMask, f.statusMask)
	}
	return b
}

// list calls each with every entry that passes the filter. The entry is gone
// when each returns. Entries that come or go meanwhile are told of or not.
func (s *conntrackSocket) list(f conntrackFilter, each func(*entry)) error {
	s.sequence++
	request := appendMessage(nil, ctGet, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, s.sequence, f.family, f.attributes())
	if err := s.send(request); err != nil {
		return err
	}
	var e entry
	for {
		done, err := s.receive(func(m message) error {
			if m.kind == unix.NLMSG_ERROR {
				return m.errno
			}
			if err := e.parse(m.attributes); err != nil {
				return err
			}
			each(&e)
			return nil
		})
		if done || err != nil {
			return err
		}
	}
}

// deletesAtOnce is how many entries are deleted by one system call.
const deletesAtOnce = 64

// remove deletes entries and returns how many were still there.
func (s *conntrackSocket) remove(entries []entryKey) (removed int, err error) {
	for len(entries) > 0 {
		batch := entries[:min(len(entries), deletesAtOnce)]
		entries = entries[len(batch):]
		var request []byte
		first := s.sequence + 1
		for _, e := range batch {
			s.sequence++
			request = appendMessage(request, ctDelete, unix.NLM_F_REQUEST|unix.NLM_F_ACK, s.sequence, e.family(), e.attributes())
		}
		if err := s.send(request); err != nil {
			return removed, err
		}
		n, err := s.acknowledged(first, s.sequence)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// acknowledged reads the answers to the requests of those numbers. An entry
// that is gone by itself is no error.
func (s *conntrackSocket) acknowledged(first, last uint32) (done int, err error) {
	for next := first; next-first <= last-first; {
		_, err := s.receive(func(m message) error {
			if m.kind != unix.NLMSG_ERROR || m.sequence-first > last-first {
				return nil
			}
			next++
			switch {
			case m.errno == 0:
				done++
			case !errors.Is(m.errno, unix.ENOENT):
				return fmt.Errorf("delete a conntrack entry: %w", m.errno)
			}
			return nil
		})
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (s *conntrackSocket) send(request []byte) error {
	for {
		err := unix.Sendto(s.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// A message is one of those that the kernel answers with.
type message struct {
	kind       uint16
	flags      uint16
	sequence   uint32
	errno      unix.Errno // of an NLMSG_ERROR; 0 is the word that all is well
	attributes []byte     // behind the nfgenmsg
}

// receive reads once and calls each with the messages of conntrack and the
// acknowledgements in it; done says that a list has ended. An error in a list
// is returned.
func (s *conntrackSocket) receive(each func(message) error) (done bool, err error) {
	n, err := s.read()
	if err != nil {
		return false, err
	}
	return messages(s.buffer[:n], each)
}

func (s *conntrackSocket) read() (int, error) {
	for {
		n, _, flags, _, err := unix.Recvmsg(s.fd, s.buffer, nil, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("conntrack does not answer within %v", conntrackPatience)
		case err != nil:
			return 0, err
		case flags&unix.MSG_TRUNC != 0:
			return 0, errShort
		}
		return n, nil
	}
}

// messages takes apart what one read gave (struct nlmsghdr, linux/netlink.h).
func messages(b []byte, each func(message) error) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, errShort
		}
		m := message{
			kind:     binary.NativeEndian.Uint16(b[4:]),
			flags:    binary.NativeEndian.Uint16(b[6:]),
			sequence: binary.NativeEndian.Uint32(b[8:]),
		}
		content := b[unix.SizeofNlMsghdr:size]
		b = b[min((size+3)&^3, len(b)):]
		if m.kind == unix.NLMSG_DONE || m.kind == unix.NLMSG_ERROR {
			if len(content) < 4 {
				return false, errShort
			}
			m.errno = unix.Errno(-int32(binary.NativeEndian.Uint32(content)))
		}
		switch {
		case m.kind == unix.NLMSG_DONE && m.errno != 0:
			return true, m.errno
		case m.kind == unix.NLMSG_DONE:
			return true, nil
		case m.kind>>8 == unix.NFNL_SUBSYS_CTNETLINK:
			if len(content) < nfgenmsgSize {
				return false, errShort
			}
			m.attributes = content[nfgenmsgSize:]
		case m.kind != unix.NLMSG_ERROR:
			continue
		}
		if err := each(m); err != nil {
			return false, err
		}
	}
	return false, nil
}

// appendMessage adds a message of nfnetlink to a request, version 0.
func appendMessage(b []byte, kind, flags uint16, sequence uint32, family uint8, content []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+nfgenmsgSize+len(content)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = binary.NativeEndian.AppendUint32(b, 0) // to the kernel
	b = append(b, family, 0, 0, 0)
	return append(b, content...)
}

func appendAttribute(b []byte, kind uint16, content ...byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(content)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, content...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendNumber(b []byte, kind uint16, n uint32) []byte {
	return appendAttribute(b, kind, binary.BigEndian.AppendUint32(nil, n)...)
}

// An entryKey names an entry of conntrack: never another flow that came later
// with the same addresses, where the kernel gave an id.
type entryKey struct {
	original tuple
	id       uint32
	zone     uint16
}

func (e *entry) key() entryKey { return entryKey{original: e.original, id: e.id, zone: e.zone} }

func (k entryKey) family() uint8 {
	if k.original.source.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (k entryKey) attributes() []byte {
	const nested = unix.NLA_F_NESTED
	source, target := uint16(ctaIPv6Source), uint16(ctaIPv6Target)
	if k.original.source.Is4() {
		source, target = ctaIPv4Source, ctaIPv4Target
	}
	ip := appendAttribute(nil, source, k.original.source.AsSlice()...)
	ip = appendAttribute(ip, target, k.original.target.AsSlice()...)
	proto := appendAttribute(nil, ctaProtoNumber, k.original.protocol)
	proto = appendAttribute(proto, ctaProtoSource, byte(k.original.fromPort>>8), byte(k.original.fromPort))
	proto = appendAttribute(proto, ctaProtoTarget, byte(k.original.toPort>>8), byte(k.original.toPort))
	both := appendAttribute(nil, ctaTupleIP|nested, ip...)
	both = appendAttribute(both, ctaTupleProto|nested, proto...)
	b := appendAttribute(nil, ctaTupleOrig|nested, both...)
	if k.id != 0 {
		b = appendNumber(b, ctaID, k.id)
	}
	if k.zone != 0 {
		b = appendAttribute(b, ctaZone, byte(k.zone>>8), byte(k.zone))
	}
	return b
}
