package terminator

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow"
)

// past is a deadline that ends what waits.
var past = time.Unix(1, 0)

// errTruncated is the end of a stream inside TLS that its sender has not ended (RFC 8446, 6.1).
var errTruncated = errors.New("FIN without close_notify")

// A voice is one side of a flow, as it speaks: in clear or inside TLS.
type voice interface {
	io.ReadWriter
	// end passes on that the other side has ended: wholly, or cut off.
	end(whole bool) error
	// rest returns when the connection has ended too, where what was said in it has.
	rest()
	// raw is the connection.
	raw() *side
}

// A side is the connection with the client or the primary. What was read ahead is read
// again; one goroutine reads at a time.
type side struct {
	net.Conn
	who    shadow.Party
	before []byte       // to be read first
	ended  atomic.Bool  // its FIN was read
	last   atomic.Int64 // until when it is heard, in Unix nanoseconds; 0: as long as it likes
}

func (s *side) Read(b []byte) (int, error) {
	if len(s.before) > 0 {
		n := copy(b, s.before)
		s.before = s.before[n:]
		return n, nil
	}
	n, err := s.Conn.Read(b)
	if errors.Is(err, io.EOF) {
		s.ended.Store(true)
	}
	return n, err
}

// Close is for crypto/tls, which closes what it gives up: the relay closes connections.
func (s *side) Close() error { return s.interrupt() }

// SetWriteDeadline does nothing. It is for crypto/tls, which gives close_notify five seconds, and
// who reads slowly would hear a stream that is cut off. How long a side may take nothing is
// for the relay to say.
func (s *side) SetWriteDeadline(time.Time) error { return nil }

// interrupt ends a Read that waits, and the next.
func (s *side) interrupt() error { return s.SetReadDeadline(past) }

// isHeardOut says that a side that takes no more was heard long enough.
func (s *side) isHeardOut() bool {
	last := s.last.Load()
	return last != 0 && time.Now().UnixNano() >= last
}

func (s *side) end(bool) error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (s *side) rest() {}

func (s *side) raw() *side { return s }

// inside is a side that speaks inside TLS.
type inside struct {
	*tls.Conn
	side *side
}

func (i inside) Read(b []byte) (int, error) {
	n, err := i.Conn.Read(b)
	if errors.Is(err, io.EOF) && i.side.ended.Load() {
		err = errTruncated // crypto/tls takes a bare FIN for an end
	}
	return n, err
}

func (i inside) end(whole bool) error {
	if whole {
		return i.CloseWrite()
	}
	return i.side.end(false)
}

// rest discards what comes behind close_notify (RFC 8446, 6.1), up to the FIN.
func (i inside) rest() {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	for {
		if _, err := i.side.Read(buf[:]); err != nil {
			return
		}
	}
}

func (i inside) raw() *side { return i.side }

// timedOut says whether an error is that of a deadline: somebody has interrupted.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
