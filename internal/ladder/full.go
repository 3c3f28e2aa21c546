package ladder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// full is an address that answers no SYN, without a firewall's help: a listener
// with a backlog of 0 whose one place is taken. Linux drops the SYNs that come to a
// full accept queue (tcp_conn_request in net/ipv4/tcp_input.c, also with
// tcp_abort_on_overflow, which is for the last packet of a handshake), and so the
// connect goes unanswered as it does towards a host that is gone.
func full(at netip.Addr) (netip.AddrPort, func(), error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // its listeners are not listened with again
	listener, err := config.Listen(context.Background(), "tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return netip.AddrPort{}, nil, fmt.Errorf("listen at %q: %w", at, err)
	}
	held := []func() error{listener.Close}
	release := func() {
		for _, end := range held {
			_ = end()
		}
	}
	address := listener.Addr().(*net.TCPAddr).AddrPort()
	if err := shorten(listener.(*net.TCPListener)); err != nil {
		release()
		return netip.AddrPort{}, nil, err
	}
	const most = 16
	for range most {
		c, err := net.DialTimeout("tcp", address.String(), unanswered)
		if err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				return address, release, nil
			}
			release()
			return netip.AddrPort{}, nil, fmt.Errorf("fill the backlog: %w", err)
		}
		held = append(held, c.Close)
	}
	release()
	return netip.AddrPort{}, nil, fmt.Errorf("fill the backlog: this kernel took %d connections into a backlog of 0", most)
}

// unanswered is how long a connect to loopback may take before it is one that gets
// no answer: a SYN is sent again after a second (RFC 6298), an answer takes
// microseconds.
const unanswered = 300 * time.Millisecond

// shorten takes a listener's backlog to 0: listen(2) may be called again.
func shorten(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return fmt.Errorf("shorten the backlog: %w", err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Listen(int(fd), 0) }); err != nil {
		failed = err
	}
	if failed != nil {
		return fmt.Errorf("shorten the backlog: %w", failed)
	}
	return nil
}
