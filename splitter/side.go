package splitter

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stateClose is TCP_CLOSE of include/net/tcp_states.h: the connection is gone
// and the socket only holds what has not been read yet.
const stateClose = 7

// idleGrain is the least time between two looks at a flow's idleness; the
// kernel tells it in its ticks, which are 10 ms at most.
const idleGrain = 10 * time.Millisecond

// side is one of the two connections of a flow.
type side struct {
	conn *net.TCPConn
	raw  syscall.RawConn
	shut atomic.Bool // we have sent our FIN, or are about to
	born time.Time
}

func newSide(conn *net.TCPConn) *side {
	raw, err := conn.SyscallConn()
	if err != nil {
		panic(err) // only for a nil connection
	}
	return &side{conn: conn, raw: raw, born: time.Now()}
}

// close ends the connection in order; what has been written is still sent.
func (s *side) close() { _ = s.conn.Close() }

// reset ends the connection with an RST: SO_LINGER of 0, socket(7).
func (s *side) reset() {
	_ = s.conn.SetLinger(0)
	_ = s.conn.Close()
}

// shutWrite sends our FIN, unless the peer is gone.
func (s *side) shutWrite() error {
	if s.dead() {
		return syscall.ECONNRESET
	}
	s.shut.Store(true)
	err := s.conn.CloseWrite()
	if err != nil {
		s.shut.Store(false)
	}
	return err
}

// awaitReadable waits until there is something to read: bytes, an end or an
// error. It consumes none of them. It holds the place of a read in the
// runtime's poller but no pipe, unlike a splice that waits.
func (s *side) awaitReadable() error { return s.await(unix.POLLIN | unix.POLLRDHUP) }

// awaitReset waits, after the peer's FIN, for its RST. Nil says that there was
// none: our own FIN ended the connection, or the flow was closed.
func (s *side) awaitReset() error {
	err := s.await(0)
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if err == nil && s.dead() {
		return syscall.ECONNRESET
	}
	return err
}

// await waits until poll(2) reports one of the events, an error or a hang-up.
func (s *side) await(events int16) error {
	var failure error
	err := s.raw.Read(func(fd uintptr) bool {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		for {
			n, err := unix.Poll(fds[:], 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			failure = err
			return err != nil || n > 0
		}
	})
	return errors.Join(err, failure)
}

// dead says whether the peer has reset the connection (or the kernel has given
// it up). A connection that ended in order counts as dead only before our own
// FIN, where it cannot yet be in that state.
func (s *side) dead() bool {
	info := s.info()
	// In this order: the state of a connection that ends in order changes only
	// after shut has been set.
	return info != nil && info.State == stateClose && !s.shut.Load()
}

// quietFor says how long no byte has come or gone, retransmissions included.
func (s *side) quietFor() time.Duration {
	age := time.Since(s.born)
	info := s.info()
	if info == nil {
		return age
	}
	return min(age, time.Duration(min(info.Last_data_recv, info.Last_data_sent))*time.Millisecond)
}

// info asks the kernel about the connection; nil when it is closed.
func (s *side) info() *unix.TCPInfo {
	var info *unix.TCPInfo
	err := s.raw.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if err != nil {
		return nil
	}
	return info
}
