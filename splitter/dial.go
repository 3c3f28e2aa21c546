package splitter

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/splitd/splitd/traffic"
)

// connect reaches the backend that the draw names, or the primary in its
// stead. Nothing has been read from the client yet, so the client cannot
// notice; what it has sent waits in its socket.
func (f *flow) connect() (*net.TCPConn, *target) {
	drawn := f.choice.pick(f.relay.draw())
	if conn := f.dial(drawn); conn != nil {
		return conn, drawn
	}
	primary := &f.choice.primary
	if drawn == primary || f.choice.proxy.Fallback == traffic.FallbackNone || f.ctx.Err() != nil {
		return nil, nil
	}
	if conn := f.dial(primary); conn != nil {
		return conn, primary
	}
	return nil, nil
}

// dial connects to the target within the connect timeout; nil says it failed,
// and that it has been counted.
//
// It is DialContext and not Dialer.DialTCP because the latter binds first when
// it is given no local address, and a bound port is lost to all backends.
func (f *flow) dial(t *target) *net.TCPConn {
	conn, err := f.choice.dialer.DialContext(f.ctx, f.choice.network, t.address)
	if err == nil {
		tcp, ok := conn.(*net.TCPConn)
		if ok {
			return tcp
		}
		_ = conn.Close()
		return nil
	}
	switch {
	case errors.Is(err, context.Canceled):
	case isLocalFault(err):
		f.relay.faults.dials.Add(1)
		if left, ok := f.relay.quiet.allow("local fault", time.Now()); ok {
			f.relay.log.Warn("connect backend: this host is short of ports, file descriptors or memory",
				"split", f.choice.split, "backend", t.name, "error", err, "left_out", left)
		}
	default:
		t.counter.failed.Add(1)
		if left, ok := f.relay.quiet.allow(t.address, time.Now()); ok {
			f.relay.log.Warn("connect backend", "split", f.choice.split, "backend", t.name, "error", err, "left_out", left)
		}
	}
	return nil
}

// isLocalFault says whether the attempt never left this host for reasons that
// are not the backend's: connect(2), socket(2).
func isLocalFault(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN,
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
