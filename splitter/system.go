package splitter

import (
	"encoding/binary"
	"math"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// system is the edge on this kernel. Calls of the data path are raw: they do
// not wait, and telling the Go scheduler of each costs more than some take.
type system struct{}

// endpoint is an address as the kernel wants it.
type endpoint struct {
	family  int
	address unsafe.Pointer // a RawSockaddrInet4 or RawSockaddrInet6
	length  uintptr
}

func newEndpoint(address netip.AddrPort) *endpoint {
	if ip := address.Addr(); ip.Is4() {
		raw := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(address.Port()), Addr: ip.As4()}
		return &endpoint{family: unix.AF_INET, address: unsafe.Pointer(raw), length: unsafe.Sizeof(*raw)}
	}
	raw := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(address.Port()), Addr: address.Addr().As16()}
	return &endpoint{family: unix.AF_INET6, address: unsafe.Pointer(raw), length: unsafe.Sizeof(*raw)}
}

// networkOrder is the port as it stands in a raw address, or the other way
// round: ip(7).
func networkOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

// bind gives the socket the address.
func (e *endpoint) bind(socket int) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(socket), uintptr(e.address), e.length)
	return errno
}

func (system) accept(listener int) (int, netip.AddrPort, syscall.Errno) {
	var client unix.RawSockaddrInet6 // the larger one
	length := uint32(unix.SizeofSockaddrInet6)
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&client)), uintptr(unsafe.Pointer(&length)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, netip.AddrPort{}, errno
		case client.Family == unix.AF_INET:
			ip := netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&client)).Addr)
			return int(fd), netip.AddrPortFrom(ip, networkOrder(client.Port)), 0
		default:
			return int(fd), netip.AddrPortFrom(netip.AddrFrom16(client.Addr), networkOrder(client.Port)), 0
		}
	}
}

func (s system) connect(to *endpoint) (int, syscall.Errno) {
	fd, errno := s.stream(to.family)
	if errno != 0 {
		return 0, errno
	}
	if errno := to.connect(fd); errno != 0 {
		s.close(fd)
		return 0, errno
	}
	return fd, 0
}

// stream makes a socket, of which urgent data is read where it stands in the stream:
// a read would leave it out (SO_OOBINLINE, socket(7)).
func (system) stream(family int) (int, syscall.Errno) {
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if errno == 0 {
		one := int32(1)
		_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one), 0)
	}
	return int(fd), errno
}

// connect begins to connect the socket to the address.
func (e *endpoint) connect(socket int) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(socket), uintptr(e.address), e.length)
	if errno == unix.EINPROGRESS || errno == unix.EINTR {
		return 0
	}
	return errno
}

func (system) queued(listener int) int {
	info, err := unix.GetsockoptTCPInfo(listener, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return int(info.Unacked) // tcp_get_info in net/ipv4/tcp.c
}

func (system) fault(socket int) syscall.Errno {
	code, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || code == 0 {
		return unix.ECONNRESET
	}
	return syscall.Errno(code)
}

// tcpClose and tcpSynSent are states of a connection (include/net/tcp_states.h).
const (
	tcpSynSent = 2
	tcpClose   = 7
)

func (s system) attempt(socket int) syscall.Errno {
	info, err := unix.GetsockoptTCPInfo(socket, unix.IPPROTO_TCP, unix.TCP_INFO)
	switch {
	case err != nil, info.State == tcpSynSent:
		return unix.ETIMEDOUT
	case info.State == tcpClose:
		return s.fault(socket)
	}
	return 0
}

func (system) recv(socket int, into []byte) outcome { return receive(socket, into, 0) }

func (system) peek(socket int, into []byte) outcome { return receive(socket, into, unix.MSG_PEEK) }

func receive(socket int, into []byte, flags uintptr) outcome {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(socket), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)), flags, 0, 0)
		if errno != unix.EINTR {
			return taken(n, errno, len(into))
		}
	}
}

// taken is the outcome of reading from a socket.
func taken(n uintptr, errno syscall.Errno, room int) outcome {
	switch {
	case errno == unix.EAGAIN:
		return outcome{kind: again}
	case errno != 0:
		return outcome{kind: failed, gone: isGone(errno)}
	case n == 0:
		return outcome{kind: ended}
	}
	return outcome{kind: moved, n: int(n), full: int(n) == room}
}

func (system) send(socket int, bytes []byte) outcome {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(socket), uintptr(unsafe.Pointer(unsafe.SliceData(bytes))), uintptr(len(bytes)), unix.MSG_NOSIGNAL, 0, 0)
		if errno != unix.EINTR {
			return given(n, errno)
		}
	}
}

// given is the outcome of writing to a socket.
func given(n uintptr, errno syscall.Errno) outcome {
	switch {
	case errno == unix.EAGAIN:
		return outcome{kind: again}
	case errno != 0:
		return outcome{kind: failed, gone: isGone(errno)}
	}
	return outcome{kind: moved, n: int(n)}
}

// isGone says whether an error of a connection is that the kernel has given its
// peer up, which has acknowledged nothing for too long: as a timeout, or as what
// routers have said meanwhile (tcp_write_err in net/ipv4/tcp_timer.c).
func isGone(errno syscall.Errno) bool {
	switch errno { //nolint:exhaustive // it picks some of all there are
	case unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN:
		return true
	}
	return false
}

func splice(from, to, most int) (uintptr, syscall.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if errno != unix.EINTR {
			return n, errno
		}
	}
}

func (system) draw(socket, pipe, most int) outcome {
	n, errno := splice(socket, pipe, most)
	if isSplices(errno, socket) {
		return outcome{kind: unable}
	}
	o := taken(n, errno, most)
	// A page of the pipe may hold as little as a byte.
	o.full = o.n >= most/unix.Getpagesize()
	return o
}

// isSplices says whether an error of a splice is that of the call, and the socket's
// bytes may be copied, or of the connection. That lists of errors do not tell: filters of
// system calls answer by any, and what routers say of a peer ends a connection by some of
// the same. But when a connection tells of its error the kernel has closed it (tcp_reset
// in net/ipv4/tcp_input.c, tcp_write_err in net/ipv4/tcp_timer.c).
func isSplices(errno syscall.Errno, socket int) bool {
	if errno == 0 || errno == unix.EAGAIN {
		return false
	}
	info, err := unix.GetsockoptTCPInfo(socket, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State != tcpClose
}

func (system) pour(pipe, socket, most int) outcome {
	n, errno := splice(pipe, socket, most)
	if isSplices(errno, socket) {
		return outcome{kind: unable}
	}
	return given(n, errno)
}

func (system) scoop(pipe int, into []byte) outcome {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(pipe), uintptr(unsafe.Pointer(unsafe.SliceData(into))), uintptr(len(into)))
		if errno != unix.EINTR {
			return taken(n, errno, len(into))
		}
	}
}

func (system) shut(socket int) outcome {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(socket), unix.SHUT_WR, 0)
	return given(0, errno)
}

func (system) close(descriptor int) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(descriptor), 0, 0)
}

func (s system) reset(socket int) {
	// socket(7): to linger for no time is to end with an RST.
	_ = unix.SetsockoptLinger(socket, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	s.close(socket)
}

func (system) lend(socket int) (int, syscall.Errno) {
	const above = 3 // of what has the number of standard output a broken pipe ends the process
	fd, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(socket), unix.F_DUPFD_CLOEXEC, above)
	return int(fd), errno
}

func (s system) sever(socket int) {
	// connect(2): to connect to nobody ends the connection, with an RST (tcp_disconnect in
	// net/ipv4/tcp.c), and what waits for it.
	nobody := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.RawSyscall(unix.SYS_CONNECT, uintptr(socket), uintptr(unsafe.Pointer(&nobody)), unsafe.Sizeof(nobody))
	s.reset(socket)
}

func (system) prompt(socket int) {
	_ = unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

const (
	// keepEvery is the most time between what asks a silent peer whether it is
	// there yet, and keepCount how often it is asked where there is no other bound.
	keepEvery = 15 * time.Second
	keepCount = 9
	// keepAsked is how often it is asked within the patience with it, so that
	// answers may get lost.
	keepAsked = 4
)

// asTheHost is the patience with peers that a connection would have of itself: it is
// asked whether it is there after two hours (net.ipv4.tcp_keepalive_time, tcp(7)).
const asTheHost time.Duration = -1

// keepPace is after how long a silent peer is asked, and asked again, so that one
// that is gone is given up when the patience with it is over: the kernel looks at
// that when it would ask again (tcp_keepalive_timer in net/ipv4/tcp_timer.c). It
// counts in seconds.
func keepPace(patience time.Duration) time.Duration {
	if patience <= 0 {
		return keepEvery
	}
	return min(max((patience/keepAsked).Truncate(time.Second), time.Second), keepEvery)
}

func (system) lasting(socket int, patience time.Duration) { _ = keepAlive(socket, patience) }

// keepAlive has the kernel find out that the peer is gone. The patience bounds how
// long it may leave unacknowledged what it was sent, or take nothing, when
// keep-alives are not sent (TCP_USER_TIMEOUT, tcp(7)), and how long it may leave
// those unanswered. 0 leaves it to the host, about 15 minutes and for ever, and to
// keepCount; asTheHost leaves all of it to the host.
func keepAlive(socket int, patience time.Duration) error {
	if patience == asTheHost {
		return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	}
	pace := int(keepPace(patience) / time.Second)
	for _, option := range []struct{ level, name, value int }{
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(min(patience.Milliseconds(), math.MaxInt32))},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, pace},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, pace},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepCount},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	} {
		if err := unix.SetsockoptInt(socket, option.level, option.name, option.value); err != nil {
			return err
		}
	}
	return nil
}

func (system) quiet(socket int) (time.Duration, bool) {
	info, err := unix.GetsockoptTCPInfo(socket, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return time.Duration(min(info.Last_data_recv, info.Last_data_sent)) * time.Millisecond, true
}

func (system) heard(socket int) (time.Duration, bool) {
	info, err := unix.GetsockoptTCPInfo(socket, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return time.Duration(info.Last_data_recv) * time.Millisecond, true
}

func (system) unsent(socket int) int {
	n, err := unix.IoctlGetInt(socket, unix.SIOCOUTQNSD)
	if err != nil {
		return 0
	}
	return n
}

// localAddress is the socket's own, the zero one where the kernel does not say.
func localAddress(socket int) netip.AddrPort {
	at, err := unix.Getsockname(socket)
	if err != nil {
		return netip.AddrPort{}
	}
	return addressOf(at)
}

func addressOf(at unix.Sockaddr) netip.AddrPort {
	switch a := at.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func (s system) pipe(room int) (*pipe, bool) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, false
	}
	p := &pipe{read: ends[0], write: ends[1]}
	// Beyond fs.pipe-user-pages-soft an ordinary user's pipes have two pages and
	// do not grow (pipe(7)): less than a copy moves.
	if size, err := unix.FcntlInt(uintptr(p.write), unix.F_SETPIPE_SZ, room); err != nil || size < room {
		s.close(ends[0])
		s.close(ends[1])
		return nil, false
	}
	return p, true
}
