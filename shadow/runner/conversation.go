package runner

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/splitd/splitd/shadow"
)

// conversation is what is said on one connection to the candidate, or to the control. It
// belongs to who reads there.
type conversation struct {
	session *session
	ctx     context.Context //nolint:containedctx // it is the connection's life
	cancel  context.CancelFunc
	turn    int
	out     *outbox
	secures <-chan securing
	taken   chan struct{} // gets something when what was read last is done with
}

// converse dials, and passes on what comes.
func (c *conversation) converse() {
	s, ctx := c.session, c.ctx
	conn, err := s.connect(ctx, s.flow.of)
	if err != nil {
		c.tell(news{end: refusal(err), cause: err})
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	n := news{conn: conn}
	if asked := s.flow.of.TLS; asked != nil {
		if n = c.secure(conn, *asked); n.end != shadow.Open {
			c.tell(n)
			return
		}
	}
	if !c.tell(n) {
		return
	}
	s.flow.runner.connections.Go(func() { c.out.write(ctx, n.conn, c.cancel) })
	c.read(n.conn)
}

// tell tells the flow, and says whether it wants to hear.
func (c *conversation) tell(n news) bool {
	n.session, n.turn = c.session, c.turn
	select {
	case c.session.flow.news <- n:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// read passes on what comes, until the connection or its context ends.
func (c *conversation) read(conn net.Conn) {
	buffer := make([]byte, 16<<10)
	c.taken = make(chan struct{}, 1)
	for {
		n, err := conn.Read(buffer)
		if n > 0 && !c.pass(buffer[:n]) {
			return
		}
		if errors.Is(err, os.ErrDeadlineExceeded) { // none but who wants a handshake sets one
			if conn = c.cross(conn); conn == nil {
				return
			}
			continue
		}
		if err != nil {
			c.tell(news{end: endOf(err), cause: err})
			<-c.ctx.Done() // what is to be written may still be
			return
		}
	}
}

// pass lends bytes to the flow until it has taken them, and says whether it wants more.
func (c *conversation) pass(bytes []byte) bool {
	if !c.tell(news{bytes: bytes, taken: c.taken}) {
		return false
	}
	select {
	case <-c.taken:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// cross makes the handshake that is asked for, and returns the connection to go on with;
// nil where there is none.
func (c *conversation) cross(conn net.Conn) net.Conn {
	var s securing
	if !receive(c.ctx, c.secures, &s) || !receive(c.ctx, s.turn.dry, new(struct{})) {
		return nil
	}
	_ = conn.SetReadDeadline(time.Time{})
	n := c.secure(conn, s.asked)
	if !c.tell(n) || n.end != shadow.Open {
		return nil
	}
	s.turn.over <- n.conn // it has room
	return n.conn
}

// receive takes from a channel unless the context ends before, or says that it has.
func receive[T any](ctx context.Context, from <-chan T, to *T) bool {
	select {
	case *to = <-from:
		return true
	case <-ctx.Done():
		return false
	}
}

// secure makes a handshake, and returns the news of it.
func (c *conversation) secure(conn net.Conn, asked shadow.Handshake) news {
	secured, h, err := c.session.flow.runner.options.Secure(c.ctx, conn, asked, c.session.control)
	if err != nil {
		return news{tls: &h, end: shadow.Unsecured, cause: err}
	}
	return news{tls: &h, conn: secured}
}
