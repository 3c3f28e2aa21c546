package splitter

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// The ports that connections with a client's address get: fewer than any system
// gives its own clients (32768 and up on Linux, 49152 and up by RFC 6335, section
// 6). A client may connect to the same backend itself, and two connections between
// the same addresses and ports do not get on: where the backend has one in
// TIME_WAIT yet, the SYN of the other is answered a second later.
const (
	borrowFirst = 10240
	borrowLast  = 32767
	// borrowTries is how many of them are tried before the kernel is asked for
	// any port of its own range.
	borrowTries = 8
)

// loans gives the ports out, one after the other: what a client had last comes
// again when all others have been used.
type loans struct{ next int }

// newLoans begins anywhere, so that workers do not try the same ports.
func newLoans() loans { return loans{rand.IntN(borrowLast - borrowFirst + 1)} }

func (l *loans) port() uint16 {
	l.next = (l.next + 1) % (borrowLast - borrowFirst + 1)
	return uint16(borrowFirst + l.next)
}

// dial begins to connect the flow to the target: with the client's address where
// the split is transparent.
func (w *worker) dial(f *flow, t *target) (int, syscall.Errno) {
	if f.choice.masqueraded || !f.choice.proxy.Transparent {
		return w.dialOwn(f, t)
	}
	ip := f.client.Addr().Unmap()
	switch {
	case ip.IsUnspecified(): // bind(2) would choose this host's own
		return 0, unix.EINVAL
	case ip.Is4() != t.at.Addr().Is4():
		return 0, unix.EAFNOSUPPORT
	}
	for range borrowTries {
		from := newEndpoint(netip.AddrPortFrom(ip, w.loans.port()))
		socket, errno := w.edge.connectAs(from, t.endpoint, w.relay.legMark)
		if errno != unix.EADDRINUSE && errno != unix.EADDRNOTAVAIL {
			return socket, errno
		}
	}
	return w.edge.connectAs(newEndpoint(netip.AddrPortFrom(ip, 0)), t.endpoint, w.relay.legMark)
}

// ours says whether an attempt to connect the flow, or a probe, failed for this host's
// own fault and no backend's: it is short of something, forbids it, has no route for
// datagrams, or may not use the client's address.
func (f *flow) ours(cause syscall.Errno) bool {
	return isShortage(cause) || cause == unix.EPERM || f.choice.transport == traffic.UDP && isHosts(cause) ||
		f.choice.proxy.Transparent && isDenial(cause)
}

// isDenial says whether an error is of a socket that may not have an address.
func isDenial(cause syscall.Errno) bool {
	return cause == unix.EPERM || cause == unix.EINVAL || cause == unix.EAFNOSUPPORT
}

// warnOurs tells of such a fault.
func warnOurs(log *slog.Logger, transparent bool, cause syscall.Errno) {
	switch {
	case cause == unix.EPERM && !transparent:
		log.Warn("reach backend: a firewall of this host forbids it, or its connection tracking is full")
	case cause == unix.EPERM:
		log.Warn("connect backend with the client's address (proxy.transparent): this process lacks CAP_NET_ADMIN, or a firewall of this host refuses it")
	case cause == unix.ENETUNREACH:
		log.Warn("reach backend: this host has no route to it")
	case isDenial(cause):
		log.Warn("connect backend with the client's address (proxy.transparent): it is no address that a connection to the backend can have")
	default:
		log.Warn("connect backend: this host is short of ports, file descriptors, memory or fs.epoll.max_user_watches")
	}
}

// mayBorrow refuses splits that are transparent where their flows could not be:
// those of UDP, and all where this process may not have connections with clients'
// addresses.
func mayBorrow(splits []traffic.Split, mark uint32) error {
	for _, s := range splits {
		if !s.Proxy.Transparent {
			continue
		}
		for _, p := range s.Service.Ports {
			if p.Transport == traffic.UDP {
				return fmt.Errorf("split %q: port %s: flows of udp do not keep the client's address (proxy.transparent): make another split of those", s.Name, p)
			}
		}
		for _, ip := range s.Service.Addresses {
			errno := system{}.mayBorrow(newEndpoint(netip.AddrPortFrom(ip, 0)), mark)
			if errno == unix.EPERM {
				return fmt.Errorf("split %q: proxy.transparent needs CAP_NET_ADMIN: run splitd as root, grant the capability, or set transparent: false: %w", s.Name, errno)
			}
			if errno != 0 {
				return fmt.Errorf("split %q: ask for sockets that proxy.transparent needs: %w", s.Name, errno)
			}
		}
	}
	return nil
}

func (s system) connectAs(from, to *endpoint, mark uint32) (int, syscall.Errno) {
	fd, errno := s.stream(to.family)
	if errno != 0 {
		return 0, errno
	}
	if errno = borrow(fd, from.family, mark); errno == 0 {
		errno = from.bind(fd)
	}
	if errno == 0 {
		errno = to.connect(fd)
	}
	if errno != 0 {
		s.close(fd)
		return 0, errno
	}
	return fd, 0
}

// mayBorrow tries what borrow does.
func (s system) mayBorrow(from *endpoint, mark uint32) syscall.Errno {
	fd, errno := s.stream(from.family)
	if errno != 0 {
		return errno
	}
	defer s.close(fd)
	return borrow(fd, from.family, mark)
}

// haveAnyAddress lets a socket have an address that is not this host's
// (IP_TRANSPARENT, ip(7), which needs CAP_NET_ADMIN or CAP_NET_RAW).
func haveAnyAddress(fd, family int) syscall.Errno {
	level, transparent := unix.IPPROTO_IP, unix.IP_TRANSPARENT
	if family == unix.AF_INET6 {
		level, transparent = unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT
	}
	err := unix.SetsockoptInt(fd, level, transparent, 1)
	errno, _ := err.(syscall.Errno) //nolint:errorlint // it is always one
	return errno
}

// borrow lets a socket have such an address and the mark by which the
// kernel's rules lead the replies to it (SO_MARK, socket(7): CAP_NET_ADMIN, from
// Linux 5.17 on CAP_NET_RAW too). A port may be that of other such sockets, with
// other peers. Where none is given, it is chosen when the peer is known.
func borrow(fd, family int, mark uint32) syscall.Errno {
	if errno := haveAnyAddress(fd, family); errno != 0 {
		return errno
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_MARK, int(mark)},
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1}, // IPv6 has no other
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			errno, _ := err.(syscall.Errno) //nolint:errorlint // it is always one
			return errno
		}
	}
	return 0
}
