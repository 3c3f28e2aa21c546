package main

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for sockets (epoll(7), level-triggered). It is for one
// goroutine. The loops here make system calls themselves: with net.Conn half of
// the time would go to waking goroutines, and the paths would look more alike
// than they are.
type poller struct {
	fd      int
	events  []unix.EpollEvent
	yielded time.Time
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open epoll: %w", err)
	}
	return &poller{fd: fd, events: make([]unix.EpollEvent, 128)}, nil
}

func (p *poller) close() { _ = unix.Close(p.fd) }

func (p *poller) add(fd int, events uint32) error {
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}

func (p *poller) remove(fd int) { _ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil) }

// yieldEvery is half of what the Go scheduler lets a goroutine go on for. Of a
// loop that never lets it begin anew it looks 20,000 times a second whether to
// stop it, with a part of the machine that is measured.
const yieldEvery = 5 * time.Millisecond

// wait returns what is ready, nothing after the timeout.
func (p *poller) wait(timeout time.Duration) ([]unix.EpollEvent, error) {
	now := time.Now()
	if now.Sub(p.yielded) >= yieldEvery {
		runtime.Gosched()
		p.yielded = now
	}
	for deadline := now.Add(timeout); ; timeout = time.Until(deadline) {
		n, err := unix.EpollWait(p.fd, p.events, max(0, int(timeout.Milliseconds())))
		switch {
		case err == nil:
			return p.events[:n], nil
		case !errors.Is(err, unix.EINTR): // Go's own signals (SIGURG)
			return nil, fmt.Errorf("wait for sockets: %w", err)
		}
	}
}

// address is what the system calls want of an address.
func address(a netip.AddrPort) (family int, to unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// dial begins a connection of the kind (unix.SOCK_STREAM, SOCK_DGRAM) without
// waiting for its end.
func dial(kind int, from netip.Addr, to netip.AddrPort) (int, error) {
	family, target := address(to)
	_, source := address(netip.AddrPortFrom(from, 0))
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	// The port is chosen at connect(2), when the other side is known (ip(7)).
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, source))
	if err == nil {
		err = unix.Connect(fd, target)
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, nil
}

// reset ends a connection so that nothing of it is left, neither here nor
// there: no port waits in TIME_WAIT to meet a later connection.
func reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}
