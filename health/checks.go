package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// Checks are the real checks, on this host's sockets and processes.
type Checks struct {
	// Rand gives the numbers of DNS queries; it may be called from many
	// goroutines.
	Rand func() uint16
}

var _ Checker = Checks{}

// Check makes one check; see Checker.
func (c Checks) Check(ctx context.Context, t Target) Result {
	switch t.Health.Check {
	case traffic.CheckTCP:
		return checkTCP(ctx, t)
	case traffic.CheckSMTP:
		return checkSMTP(ctx, t)
	case traffic.CheckHTTP:
		return checkHTTP(ctx, t)
	case traffic.CheckDNS:
		return checkDNS(ctx, t, c.Rand())
	case traffic.CheckExec:
		return checkExec(ctx, t)
	case traffic.CheckNone:
	}
	return unknown("check %q is not known", t.Health.Check)
}

// perhapsTLS ends the reason of a check in clear that failed as one does at a port where TLS
// begins with the first byte.
const perhapsTLS = ": is it TLS? write health: {check: tcp}"

func passed() Result { return Result{Outcome: Passed} }

func failed(format string, args ...any) Result {
	return Result{Failed, printable(fmt.Sprintf(format, args...))}
}

func unknown(format string, args ...any) Result {
	return Result{Unknown, printable(fmt.Sprintf(format, args...))}
}

// open connects to the target and sends what it expects before anything else, or
// says why that did not work. The connection has the deadline of ctx.
func open(ctx context.Context, t Target) (net.Conn, Result) {
	d := net.Dialer{Control: marking(t.Mark), KeepAlive: -1}
	conn, err := d.DialContext(ctx, string(t.Transport), t.Endpoint().String())
	if err != nil {
		return nil, broken("connect to "+t.Endpoint().String(), err, t)
	}
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(deadline)
	}
	if err != nil {
		_ = conn.Close()
		return nil, unknown("set deadline: %v", err)
	}
	if t.Transport == traffic.TCP {
		if _, err := io.WriteString(conn, t.SendProxy.Own()); err != nil {
			_ = conn.Close()
			return nil, broken("send PROXY header to "+t.Endpoint().String(), err, t)
		}
	}
	return conn, Result{}
}

// marking sets the packet mark of a socket (SO_MARK in socket(7)), which takes
// CAP_NET_ADMIN.
func marking(mark uint32) func(network, address string, c syscall.RawConn) error {
	if mark == 0 {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		controlErr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		return errors.Join(controlErr, os.NewSyscallError("set packet mark", err))
	}
}

// broken is the result of a check that an error ended. What is wrong with this
// host says nothing about the target.
func broken(what string, err error, t Target) Result {
	switch {
	case errors.Is(err, context.Canceled):
		return unknown("%s: given up", what)
	case isTimeout(err):
		return failed("%s: no answer within %s", what, t.Health.Timeout)
	case isLocalFault(err):
		return unknown("%s: %s", what, cause(err))
	}
	return failed("%s: %s", what, cause(err))
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

// isLocalFault says whether an attempt never left this host: it is short of
// something, or may not do that (connect(2), socket(2); EPERM is a firewall's
// word against what this host itself sends).
func isLocalFault(err error) bool {
	for _, errno := range []syscall.Errno{
		unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EAGAIN, unix.EPERM, unix.EACCES,
		unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// cause is the heart of an error: the addresses around it are known.
func cause(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	return err.Error()
}

const reasonMax = 200 // bytes

// printable makes one short line of plain characters of what comes from
// outside.
func printable(text string) string {
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text[:min(len(text), 4*reasonMax)])
	plain = strings.Join(strings.Fields(plain), " ")
	if len(plain) > reasonMax {
		plain = plain[:reasonMax-3] + "..."
	}
	return plain
}

// acceptTime is how long an opened connection is left open, so that the server
// can take it before it is reset: one that learns of a connection only after
// the reset cannot say whose it was, and logs a nameless client.
const acceptTime = 20 * time.Millisecond

// checkTCP opens a connection. It is ended by a reset, so that conntrack
// forgets it in seconds: that of a close would stay for two minutes, and
// thousands of checks would fill the table that the flows need.
func checkTCP(ctx context.Context, t Target) Result {
	conn, result := open(ctx, t)
	if conn == nil {
		return result
	}
	defer func() { _ = conn.Close() }()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > acceptTime {
		_ = conn.SetReadDeadline(time.Now().Add(acceptTime))
	}
	_, _ = conn.Read(make([]byte, 1)) // returns early when the server speaks or closes
	return passed()
}
