package splitter

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// carried is one side of a flow that is carried: a net.Conn over a descriptor of its own that
// notes what the worker has to know. It is no *net.TCPConn, which would set keep-alives of
// its own.
type carried struct {
	carriage      *carriage
	side          side
	file          *os.File
	local, remote net.Addr

	read, written atomic.Uint64
	shut          atomic.Bool // it was sent a FIN
	ended         atomic.Bool // its FIN has been read
	closed        atomic.Bool // by who carries it
	// As of stream, which has them from here.
	lost, told, gone atomic.Bool
}

// open makes a connection of a descriptor.
func (c *carried) open(descriptor int) {
	here, _ := unix.Getsockname(descriptor)
	there, _ := unix.Getpeername(descriptor) // it may be gone already
	c.local, c.remote = tcpAddress(addressOf(here)), tcpAddress(addressOf(there))
	c.file = os.NewFile(uintptr(descriptor), "")
}

func tcpAddress(at netip.AddrPort) net.Addr { return net.TCPAddrFromAddrPort(at) }

func (c *carried) LocalAddr() net.Addr  { return c.local }
func (c *carried) RemoteAddr() net.Addr { return c.remote }

func (c *carried) Read(into []byte) (int, error) {
	n, err := c.file.Read(into)
	c.read.Add(uint64(n))
	if c.side == client {
		c.carriage.tally.bytesIn.Add(uint64(n))
	}
	switch {
	case errors.Is(err, io.EOF) && c.isReset():
		return n, c.failed("read", unix.ECONNRESET)
	case errors.Is(err, io.EOF):
		c.ended.Store(true)
		return n, io.EOF
	case err != nil:
		return n, c.failed("read", err)
	}
	return n, nil
}

func (c *carried) Write(bytes []byte) (int, error) {
	n, err := c.file.Write(bytes)
	c.written.Add(uint64(n))
	if c.side == client {
		c.carriage.tally.bytesOut.Add(uint64(n))
	}
	if err != nil {
		return n, c.failed("write", err)
	}
	return n, nil
}

// CloseWrite sends a FIN. Where the other side was reset it sends none, which would look like
// the end of a whole stream: the reset is passed on when Carry returns.
func (c *carried) CloseWrite() error {
	if c.other().lost.Load() || !c.shut.CompareAndSwap(false, true) {
		return nil
	}
	if err := c.shutdown(); err != nil {
		if c.lost.CompareAndSwap(false, true) {
			c.carriage.tell()
		}
		return &net.OpError{Op: "close", Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
	}
	if c.carriage.first.CompareAndSwap(0, int32(c.side.other())+1) {
		c.carriage.tell()
	}
	return nil
}

func (c *carried) other() *carried { return c.carriage.sides[c.side.other()] }

func (c *carried) shutdown() (err error) {
	done := c.control(func(socket int) { err = unix.Shutdown(socket, unix.SHUT_WR) })
	return errors.Join(err, done)
}

// isReset says whether an end that was read is that of a reset which the kernel has told to
// who was writing, see stream: there is no connection any more, though it was sent no FIN, of
// which shut tells before it goes.
func (c *carried) isReset() bool {
	if c.shut.Load() {
		return false
	}
	closed := false
	_ = c.control(func(socket int) {
		info, err := unix.GetsockoptTCPInfo(socket, unix.IPPROTO_TCP, unix.TCP_INFO)
		closed = err == nil && info.State == tcpClose
	})
	return closed && !c.shut.Load()
}

// control calls do with the socket, which is not closed meanwhile.
func (c *carried) control(do func(socket int)) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(descriptor uintptr) { do(int(descriptor)) })
}

// Close ends what is under way and fails all that follows. The connection itself is the
// relay's, which closes it when Carry has returned.
func (c *carried) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	return c.file.SetDeadline(time.Unix(1, 0))
}

func (c *carried) SetDeadline(at time.Time) error { return c.setDeadline(c.file.SetDeadline, at) }
func (c *carried) SetReadDeadline(at time.Time) error {
	return c.setDeadline(c.file.SetReadDeadline, at)
}

func (c *carried) SetWriteDeadline(at time.Time) error {
	return c.setDeadline(c.file.SetWriteDeadline, at)
}

func (c *carried) setDeadline(set func(time.Time) error, at time.Time) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	err := set(at)
	if c.closed.Load() { // meanwhile
		_ = c.file.SetDeadline(time.Unix(1, 0))
	}
	return err
}

// failed is the error of a read or a write, as those of package net are. It notes where the
// connection is no more; of a FIN that was sent nobody need be told that no bytes follow it.
func (c *carried) failed(op string, err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	var errno syscall.Errno
	switch {
	case c.closed.Load(), errors.Is(err, os.ErrClosed):
		err = net.ErrClosed
	case errors.As(err, &errno) && (errno != unix.EPIPE || !c.shut.Load()):
		c.told.Store(true)
		if isGone(errno) {
			c.gone.Store(true)
		}
		if c.lost.CompareAndSwap(false, true) {
			c.carriage.tell()
		}
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// exhaust takes what the side sends until it has ended, or until then.
func (c *carried) exhaust(until time.Time) {
	if c.ended.Load() || c.file.SetReadDeadline(until) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c.file)
}
