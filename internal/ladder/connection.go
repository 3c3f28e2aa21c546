package ladder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// closed is the descriptor of a client that has no connection.
const closed = -1

// connection is a client, with its connection while it has one.
type connection struct {
	fd     int
	number int       // its place, to be found by
	stands bool      // the connect was answered
	asking bool      // a request was made, or waits for the connect
	due    time.Time // of that request
	asked  int       // requests on this connection
	heard  []byte    // of the answer
}

func (c *connection) close() {
	if c.fd != closed {
		_ = unix.Close(c.fd)
	}
	*c = connection{fd: closed, number: c.number, heard: c.heard[:0]}
}

// begin makes a request, on a new connection where there is none.
func (r *running) begin(c *connection, due time.Time) {
	c.asking, c.due = true, due
	var err error
	if c.fd == closed {
		err = r.connect(c)
	} else {
		err = r.send(c)
	}
	if err != nil {
		r.fail(c, time.Now(), err)
	}
}

func (r *running) connect(c *connection) error {
	family, to := sockaddr(r.At)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	c.fd, c.asked = fd, 0
	r.out.Flows++
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect to %s: %w", r.At, err)
	}
	return r.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLOUT, c.number)
}

// send sends the request, which is small: a socket that answered the last one has
// room for it.
func (r *running) send(c *connection) error {
	c.asked++
	n, err := unix.Write(c.fd, r.request)
	if err != nil || n != len(r.request) {
		return fmt.Errorf("send request: %d bytes of %d: %w", n, len(r.request), errors.Join(err, io.ErrShortWrite))
	}
	return nil
}

// hear hears what the kernel tells of a client's connection.
func (r *running) hear(c *connection) {
	if c.fd == closed {
		return // given up among the same events
	}
	if !c.stands {
		if err := r.connected(c); err != nil {
			r.fail(c, time.Now(), err)
		}
		return
	}
	n, err := unix.Read(c.fd, r.buffer)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
	case err != nil:
		r.fail(c, time.Now(), fmt.Errorf("read answer: %w", err))
	case n == 0:
		r.fail(c, time.Now(), fmt.Errorf("read answer: %w", io.ErrUnexpectedEOF))
	default:
		c.heard = append(c.heard, r.buffer[:n]...)
		r.judge(c)
	}
}

// connected hears how a connect went, and makes the request.
func (r *running) connected(c *connection) error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return fmt.Errorf("connect to %s: %w", r.At, err)
	}
	c.stands = true
	if err := r.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN, c.number); err != nil {
		return err
	}
	return r.send(c)
}

// judge looks at what was heard: more may come, or it is the whole answer.
func (r *running) judge(c *connection) {
	whole, err := isReply(r.want, c.heard)
	if err == nil && !c.asking {
		err = fmt.Errorf("%q came without a request", short(c.heard))
	}
	if err != nil {
		r.out.Strays++
		r.fail(c, time.Now(), err)
		return
	}
	if !whole {
		return
	}
	r.out.Answered++
	r.note(c.due, time.Now())
	c.asking, c.heard = false, c.heard[:0]
	if r.Flow > 0 && c.asked >= r.Flow {
		c.close()
	}
	r.idle = append(r.idle, c)
}

// fail counts a request that has no answer, or a connection that was cut off
// without one under way; the client begins anew.
func (r *running) fail(c *connection, now time.Time, why error) {
	r.out.Failed++
	r.out.Why = first(r.out.Why, why)
	if c.asking {
		r.note(c.due, now)
		r.idle = append(r.idle, c)
	}
	c.close()
}

// isReply says whether these bytes are the primary's reply, whole; not whole yet if
// more may follow. An error says that they cannot be. A proxy of HTTP may have
// written headers of its own; the primary's own and the body have to be there.
func isReply(want *sheet, heard []byte) (whole bool, err error) {
	if len(want.places) == 0 && bytes.Equal(heard, want.text) {
		return true, nil
	}
	head, body, ended := bytes.Cut(heard, []byte("\r\n\r\n"))
	const most = 4 << 10
	switch {
	case bytes.Contains(head, []byte(byCandidate)):
		return false, fmt.Errorf("the candidate's bytes reached a client: %q", short(heard))
	case !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) && !bytes.HasPrefix([]byte("HTTP/1.1 200 "), head), len(head) > most:
		return false, fmt.Errorf("an answer that is not the primary's: %q", short(heard))
	case !ended:
		return false, nil
	case !bytes.Contains(head, []byte("Via: 1.1 "+byPrimary)) || lengthOf(head) != len(want.body):
		return false, fmt.Errorf("an answer that is not the primary's: %q", short(heard))
	case len(body) < len(want.body):
		return false, nil
	case want.is(body):
		return true, nil
	case bytes.Contains(body, []byte(byCandidate)):
		return false, fmt.Errorf("the candidate's bytes reached a client, behind %q", short(heard))
	}
	return false, fmt.Errorf("an answer that is not the primary's: %q", short(heard))
}

func lengthOf(head []byte) int {
	_, after, _ := bytes.Cut(head, []byte("Content-Length: "))
	value, _, _ := bytes.Cut(after, []byte("\r\n"))
	n, err := strconv.Atoi(string(value))
	if err != nil {
		return -1
	}
	return n
}

func short(text []byte) []byte { return text[:min(len(text), 200)] }
