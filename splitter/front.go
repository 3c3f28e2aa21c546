package splitter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// front is one listener of a service address and port, and what is done with
// its connections.
type front struct {
	address  netip.AddrPort
	listener *net.TCPListener
	choice   atomic.Pointer[choice]
	closed   chan struct{} // by Relay.close
	leave    *leave        // while it goes; guarded by Relay.mu
}

// bind listens on every wanted address that no front has yet: on all of them
// or on none. r.mu is held.
func (r *Relay) bind(ctx context.Context, wanted map[netip.AddrPort]traffic.Split) ([]*front, error) {
	var bound []*front
	var shared []*net.TCPListener
	var errs []error
	for _, address := range inOrder(wanted) {
		if _, stays := r.fronts[address]; stays {
			continue
		}
		leaving := r.leaving(address, wanted)
		for _, l := range leaving {
			errs = append(errs, shareAddress(l, true))
		}
		shared = append(shared, leaving...)
		listener, err := listen(ctx, address, len(leaving) > 0)
		if err != nil {
			errs = append(errs, explainListen(address, wanted[address], err))
			continue
		}
		bound = append(bound, &front{address: address, listener: listener, closed: make(chan struct{})})
	}
	err := errors.Join(errs...)
	if err == nil {
		return bound, nil
	}
	for _, f := range bound {
		_ = f.listener.Close()
	}
	for _, l := range shared {
		_ = shareAddress(l, false)
	}
	return nil, err
}

// leaving lists the fronts that will go but still stand in the way of a new
// one at address: the wildcard's where a single address is to be, or the
// other way round. r.mu is held.
func (r *Relay) leaving(address netip.AddrPort, wanted map[netip.AddrPort]traffic.Split) []*net.TCPListener {
	var leaving []*net.TCPListener
	for old, f := range r.fronts {
		_, stays := wanted[old]
		overlap := old.Addr().IsUnspecified() || address.Addr().IsUnspecified()
		if !stays && overlap && familyOf(old) == familyOf(address) {
			leaving = append(leaving, f.listener)
		}
	}
	return leaving
}

// listen binds the address, for a moment beside a listener of ours that is
// about to go when beside is true.
func listen(ctx context.Context, address netip.AddrPort, beside bool) (*net.TCPListener, error) {
	config := net.ListenConfig{}
	if beside {
		config.Control = func(_, _ string, c syscall.RawConn) error { return reusePort(c, true) }
	}
	// An MPTCP socket costs every client's SYN more and is refused by some
	// options (golang/go#74643); Go asks for one by default since 1.24.
	config.SetMultipathTCP(false)
	l, err := config.Listen(ctx, network(address.Addr()), address.String())
	if err != nil {
		return nil, err
	}
	listener, ok := l.(*net.TCPListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("listener is a %T", l)
	}
	if beside {
		// Only for the moment of the bind: another program of this user must
		// not share our address in silence.
		if err := shareAddress(listener, false); err != nil {
			_ = listener.Close()
			return nil, err
		}
	}
	return listener, nil
}

// shareAddress lets other listeners of this user bind overlapping addresses,
// or ends that.
func shareAddress(l *net.TCPListener, on bool) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("share address %q: %w", l.Addr(), err)
	}
	if err := reusePort(raw, on); err != nil {
		return fmt.Errorf("share address %q: %w", l.Addr(), err)
	}
	return nil
}

// reusePort sets SO_REUSEPORT, which the kernel looks at in both sockets when
// the second one binds (inet_bind_conflict in net/ipv4/inet_connection_sock.c).
func reusePort(raw syscall.RawConn, on bool) error {
	value := 0
	if on {
		value = 1
	}
	var err error
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value) }); e != nil {
		return e
	}
	return err
}

// explainListen says what to do about an address that could not be bound.
func explainListen(address netip.AddrPort, split traffic.Split, err error) error {
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
