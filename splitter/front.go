package splitter

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// front is a service address and port: a listener for each worker, and what is
// done with their connections, or with what comes to them.
type front struct {
	address spot
	sockets []int // by worker, whose they are once it listens
	choice  atomic.Pointer[choice]
	flows   atomic.Int64 // that are open; of UDP alone
	leave   *leave       // while it goes; guarded by Relay.mu
	away    bool         // it begins no handshakes; guarded by Relay.mu
	goes    bool         // it is nobody's any more, and its sockets may be closed; guarded by Relay.mu
	closing bool         // and are; guarded by Relay.mu

	// inlet says that the kernel hands it flows over that ask for other addresses.
	// Opened is that of inlets: the workers accept from it. Guarded by Relay.mu.
	inlet, opened bool
}

// asked is what clients ask for whose handshakes are the front's: of an inlet it may
// be anything.
func (f *front) asked() netip.AddrPort {
	if f.inlet {
		return netip.AddrPortFrom(f.address.wildcard().Addr(), 0)
	}
	return f.address.AddrPort
}

// apply has connections that are accepted from now on treated as c says.
// Relay.mu is held, without which no socket is closed of a front that stays.
func (f *front) apply(c *choice) {
	before := f.choice.Swap(c)
	if f.udp() || f.goes {
		return
	}
	if before != nil && before.proxy.PeerTimeout == c.proxy.PeerTimeout {
		return
	}
	for _, socket := range f.sockets {
		_ = keepAlive(socket, c.proxy.PeerTimeout) // accepted ones inherit it
	}
}

// bind listens on every wanted address that no front has yet: on all of them
// or on none. r.mu is held.
func (r *Relay) bind(wanted map[spot]traffic.Split) ([]*front, error) {
	var bound []*front
	var errs []error
	for _, address := range inOrder(wanted) {
		if _, stays := r.fronts[address]; stays {
			continue
		}
		sockets, err := listen(address, len(r.workers), r.overlapped(address, wanted))
		if err != nil {
			errs = append(errs, explainListen(address, wanted[address], err))
			continue
		}
		bound = append(bound, &front{address: address, sockets: sockets})
	}
	err := errors.Join(errs...)
	if err == nil {
		for _, f := range bound {
			r.files.own.Add(int64(len(f.sockets)))
		}
		return bound, nil
	}
	for _, f := range bound {
		closeAll(f.sockets)
	}
	return nil, err
}

// overlapped says whether a front that will go covers address meanwhile: the
// wildcard's where a single address is to be, or the other way round. r.mu is
// held.
func (r *Relay) overlapped(address spot, wanted map[spot]traffic.Split) bool {
	for old := range r.fronts {
		_, stays := wanted[old]
		overlap := old.Addr().IsUnspecified() || address.Addr().IsUnspecified()
		if !stays && overlap && familyOf(old) == familyOf(address) {
			return true
		}
	}
	return false
}

// open has the workers accept from a front. r.mu is held.
func (r *Relay) open(f *front) {
	for i, w := range r.workers {
		w.post(func() { w.listen(f, f.sockets[i]) })
	}
}

// close ends a front, and returns when the connections in its queues have
// become flows: their clients think themselves connected, and a close alone
// would reset them. Of UDP it has no flows any more. It is called once; r.changing
// and r.mu are held.
func (r *Relay) close(f *front) {
	if !r.stopped {
		r.overflowed += f.overflow()
	}
	f.closing = true
	r.aside(func() { each(r.workers, func(w *worker, done func()) { w.leave(f, done) }) })
	r.files.own.Add(-int64(len(f.sockets)))
	// Who is still to send a PROXY header has the split's changes passed by.
	f.choice.Store(f.choice.Load().toPrimary())
	if r.fronts[f.address] == f {
		delete(r.fronts, f.address)
	}
	r.log.Info("stopped listening", "split", f.choice.Load().split, "address", f.address.String())
}

// backlog is more connections than the kernel lets wait, which therefore makes
// it what it has at most: net.core.somaxconn, listen(2).
const backlog = 1 << 16

// listen makes so many listeners of one address. Of those that share it
// (SO_REUSEPORT, socket(7)) the kernel gives each connection to one, by a hash.
// The first of them asks for the address for itself, unless fronts of ours
// overlap it: where another program has it, that is an error. Later the kernel
// lets in programs of the same user that ask to share it, and no others.
func listen(address spot, many int, overlapped bool) ([]int, error) {
	return listenBy(many, overlapped, func(shared bool) (int, error) { return listenOnce(address, shared) })
}

func listenBy(many int, overlapped bool, once func(shared bool) (int, error)) ([]int, error) {
	var sockets []int
	for i := range many {
		socket, err := once(i > 0 || overlapped)
		if err != nil {
			closeAll(sockets)
			return nil, err
		}
		sockets = append(sockets, socket)
	}
	return sockets, nil
}

func closeAll(sockets []int) {
	for _, socket := range sockets {
		_ = unix.Close(socket)
	}
}

func listenOnce(address spot, shared bool) (int, error) {
	to := newEndpoint(address.AddrPort)
	if address.transport == traffic.UDP {
		return bound(unix.SOCK_DGRAM, unix.IPPROTO_UDP, to, func(socket int) error { return prepareDatagrams(socket, to, address, shared) })
	}
	// Plain TCP: an MPTCP socket, which package net asks for, costs every
	// client's SYN more and is refused by some options (golang/go#74643).
	return bound(unix.SOCK_STREAM, unix.IPPROTO_TCP, to, func(socket int) error { return prepare(socket, to, shared, 0) })
}

// bound makes a socket and has it prepared.
func bound(kind, protocol int, to *endpoint, prepare func(socket int) error) (int, error) {
	socket, err := unix.Socket(to.family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, err
	}
	if err := prepare(socket); err != nil {
		_ = unix.Close(socket)
		return 0, err
	}
	return socket, nil
}

// prepare binds and listens. What is set here accepted connections inherit; the
// patience is that of keepAlive.
func prepare(socket int, to *endpoint, shared bool, patience time.Duration) error {
	if to.family == unix.AF_INET6 {
		// So that [::] never takes what belongs to 0.0.0.0: ipv6(7).
		if err := unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	for _, o := range []struct{ level, option int }{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.SOL_SOCKET, unix.SO_OOBINLINE},
	} {
		if err := unix.SetsockoptInt(socket, o.level, o.option, 1); err != nil {
			return err
		}
	}
	if err := keepAlive(socket, patience); err != nil { // until the front has a choice
		return err
	}
	if shared {
		if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	if errno := to.bind(socket); errno != 0 {
		return errno
	}
	// The kernel looks at it again in every socket that binds beside this one,
	// and makes a group of those that listen (inet_bind_conflict and
	// inet_reuseport_add_sock in net/ipv4).
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	return unix.Listen(socket, backlog)
}

// explainListen says what to do about an address that could not be bound.
func explainListen(address spot, split traffic.Split, err error) error {
	cause := err
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		cause = errno
	}
	cure := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && split.Primary.Local:
		cure = ": the local server holds it: give splitd an address of its own, or use mode: kernel"
	case errors.Is(err, syscall.EADDRINUSE):
		cure = ": another program holds it: give splitd an address of its own, or use mode: kernel"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		cure = fmt.Sprintf(": no interface of this host has it: run `ip address add %s dev DEVICE`, or use mode: kernel, which binds nothing", address.Addr())
	case errors.Is(err, syscall.EACCES):
		cure = fmt.Sprintf(": port %d needs CAP_NET_BIND_SERVICE: run splitd as root, grant the capability, or use a port of 1024 or above", address.Port())
	}
	return fmt.Errorf("listen %q for split %q: %w%s", address, split.Name, cause, cure)
}
