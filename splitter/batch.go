package splitter

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchMost is how many datagrams are taken or given at once.
	batchMost = 32
	// datagramRoom is more than a datagram can have: 65,535 bytes, its headers
	// included, but for jumbograms (RFC 768, RFC 2675).
	datagramRoom = 64 << 10
	// controlRoom is more than what tells the address that was asked takes.
	controlRoom = 64
)

// mmsghdr is a struct mmsghdr: sendmmsg(2).
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// batch is room for datagrams, and what the kernel wants to know of them. Its
// memory is touched only where datagrams come to lie.
type batch struct {
	room     int
	headers  []mmsghdr
	vectors  []unix.Iovec
	names    []unix.RawSockaddrInet6 // the larger one
	controls [][controlRoom]byte
	memory   []byte
}

func newBatch(most, room int) *batch {
	return &batch{
		room: room, headers: make([]mmsghdr, most), vectors: make([]unix.Iovec, most), names: make([]unix.RawSockaddrInet6, most),
		controls: make([][controlRoom]byte, most), memory: make([]byte, most*room),
	}
}

// empty makes the places before last ready to take datagrams. Addressed ones tell
// who sent them, and whom it asked.
func (b *batch) empty(last int, addressed bool) {
	for i := range last {
		b.vectors[i].Base = &b.memory[i*b.room]
		b.vectors[i].SetLen(b.room)
		h := &b.headers[i].header
		*h = unix.Msghdr{Iov: &b.vectors[i]}
		h.SetIovlen(1)
		if addressed {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrInet6
			h.Control = &b.controls[i][0]
			h.SetControllen(controlRoom)
		}
	}
}

// bytes are those of the datagram at a place, as it was taken.
func (b *batch) bytes(i int) []byte { return b.memory[i*b.room : i*b.room+int(b.headers[i].length)] }

// cut says that the datagram was larger than its place.
func (b *batch) cut(i int) bool { return b.headers[i].header.Flags&unix.MSG_TRUNC != 0 }

// put lays a datagram down at the first place, as if it had been taken.
func (b *batch) put(bytes []byte) {
	b.headers[0].length = uint32(copy(b.memory[:b.room], bytes))
}

// from is who sent the datagram at a place, and the link of a link-local address.
func (b *batch) from(i int) (netip.AddrPort, uint32) {
	name := &b.names[i]
	if name.Family == unix.AF_INET {
		raw := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(raw.Addr), networkOrder(raw.Port)), 0
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), networkOrder(name.Port)), name.Scope_id
}

// asked is the address that the datagram at a place was sent to; none where that
// is no single host's.
func (b *batch) asked(i int) (netip.Addr, bool) {
	return askedIn(b.controls[i][:min(int(b.headers[i].header.Controllen), controlRoom)])
}

// askedIn reads a struct in_pktinfo or in6_pktinfo behind its cmsghdr: ip(7),
// ipv6(7), RFC 3542 section 6.1.
func askedIn(control []byte) (netip.Addr, bool) {
	const behind = unix.SizeofCmsghdr
	if len(control) < behind+unix.SizeofInet4Pktinfo {
		return netip.Addr{}, false
	}
	level, kind := binary.NativeEndian.Uint32(control[behind-8:]), binary.NativeEndian.Uint32(control[behind-4:])
	switch {
	case level == unix.IPPROTO_IP && kind == unix.IP_PKTINFO:
		// Of a datagram to many it has one of our own first and theirs behind.
		ours := netip.AddrFrom4([4]byte(control[behind+4:]))
		return ours, ours == netip.AddrFrom4([4]byte(control[behind+8:]))
	case level == unix.IPPROTO_IPV6 && kind == unix.IPV6_PKTINFO && len(control) >= behind+unix.SizeofInet6Pktinfo:
		asked := netip.AddrFrom16([16]byte(control[behind:]))
		return asked, !asked.IsMulticast()
	}
	return netip.Addr{}, false
}

// unaddressed has the datagrams from first to before last go to whom their socket
// is connected to.
func (b *batch) unaddressed(first, last int) {
	for i := first; i < last; i++ {
		h := &b.headers[i].header
		h.Name, h.Namelen, h.Control = nil, 0, nil
		h.SetControllen(0)
		b.vectors[i].SetLen(int(b.headers[i].length))
	}
}

// reply has the datagram at a place go to the talker, from the address that it
// has asked if that has to be said.
func (b *batch) reply(i int, to *talker, said bool) {
	h := &b.headers[i].header
	h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
	h.Namelen = to.endpoint(&b.names[i])
	h.Control = nil
	h.SetControllen(0)
	if said {
		h.Control = &b.controls[i][0]
		h.SetControllen(to.origin(&b.controls[i]))
	}
	b.vectors[i].SetLen(int(b.headers[i].length))
}

// is4 says whether the talker's addresses are of IPv4.
func (t *talker) is4() bool { return netip.AddrFrom16(t.client).Is4In6() }

// endpoint writes the client's address as the kernel wants it, and returns its
// length.
func (t *talker) endpoint(name *unix.RawSockaddrInet6) uint32 {
	if t.is4() {
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(name)) = unix.RawSockaddrInet4{
			Family: unix.AF_INET, Port: networkOrder(t.clientPort), Addr: [4]byte(t.client[12:]),
		}
		return unix.SizeofSockaddrInet4
	}
	*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(t.clientPort), Addr: t.client, Scope_id: t.scope}
	return unix.SizeofSockaddrInet6
}

// origin writes the control message that has a datagram leave from the address
// of the service, and returns its length. By which device is the routes' business,
// or that of the client's scope.
func (t *talker) origin(control *[controlRoom]byte) int {
	header := (*unix.Cmsghdr)(unsafe.Pointer(control))
	info := control[unix.SizeofCmsghdr:]
	if t.is4() {
		header.Level, header.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		header.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		clear(info[:unix.SizeofInet4Pktinfo])
		copy(info[4:8], t.service[12:])
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	header.Level, header.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	header.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	clear(info[:unix.SizeofInet6Pktinfo])
	copy(info[:16], t.service[:])
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

func (system) associate(to *endpoint) (int, syscall.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(to.family), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if errno != 0 {
		return 0, errno
	}
	if _, _, errno = unix.RawSyscall(unix.SYS_CONNECT, fd, uintptr(to.address), to.length); errno != 0 {
		system{}.close(int(fd))
		return 0, errno
	}
	return int(fd), 0
}

func (system) take(socket int, into *batch, first int) (int, syscall.Errno) {
	return many(unix.SYS_RECVMMSG, socket, into.headers[first:])
}

func (system) give(socket int, of *batch, first, last int) (int, syscall.Errno) {
	return many(unix.SYS_SENDMMSG, socket, of.headers[first:last])
}

// many is recvmmsg(2) or sendmmsg(2): an error is that of the first datagram.
func many(call uintptr, socket int, headers []mmsghdr) (int, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(call, uintptr(socket), uintptr(unsafe.Pointer(unsafe.SliceData(headers))), uintptr(len(headers)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno { //nolint:exhaustive // the rest are the caller's
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func (system) say(socket int, bytes []byte) syscall.Errno {
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(socket), uintptr(unsafe.Pointer(unsafe.SliceData(bytes))), uintptr(len(bytes)), unix.MSG_NOSIGNAL, 0, 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}
