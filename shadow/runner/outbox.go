package runner

import (
	"context"
	"net"
	"sync"
)

// outbox is what a candidate is to be sent. One goroutine puts in, another writes,
// so that a candidate that takes nothing keeps only the writer waiting.
type outbox struct {
	progress func() // called when some of it has gone

	mu        sync.Mutex
	waiting   [][]byte
	held      int64     // bytes waiting, or being written
	fin, last bool      // behind them
	turn      *crossing // behind what it holds, before what waits; nil: there is none
	bell      chan struct{}
}

// A crossing is where what is written goes over to another connection, as the one inside
// TLS.
type crossing struct {
	before [][]byte      // what is still for the old one
	dry    chan struct{} // closed when that is written
	over   chan net.Conn // the other one, which has room for it
}

func newOutbox(progress func()) *outbox {
	return &outbox{progress: progress, bell: make(chan struct{}, 1)}
}

// put appends bytes, which are the outbox's from now on, and perhaps a FIN.
func (o *outbox) put(bytes []byte, fin bool) {
	o.change(func() {
		if len(bytes) > 0 {
			o.waiting = append(o.waiting, bytes)
			o.held += int64(len(bytes))
		}
		o.fin = o.fin || fin
	})
}

// cross has what was put in up to now written, and what comes later given to another
// connection.
func (o *outbox) cross() *crossing {
	c := &crossing{dry: make(chan struct{}), over: make(chan net.Conn, 1)}
	o.change(func() {
		c.before, o.waiting = o.waiting, nil
		o.turn = c
	})
	return c
}

// finish says that nothing more is put in: the connection goes when all is
// written.
func (o *outbox) finish() { o.change(func() { o.last = true }) }

func (o *outbox) change(do func()) {
	o.mu.Lock()
	do()
	o.mu.Unlock()
	select {
	case o.bell <- struct{}{}:
	default:
	}
}

// holds is how many bytes have not been written.
func (o *outbox) holds() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held
}

// write writes to the connection what is put in, until ctx ends, the connection
// breaks, or all is written behind which nothing comes; then it calls over. A
// connection that breaks is its reader's news.
func (o *outbox) write(ctx context.Context, conn net.Conn, over func()) {
	for {
		batch, turn, fin, last := o.take()
		for _, bytes := range batch {
			if _, err := conn.Write(bytes); err != nil {
				return
			}
			o.gone(len(bytes))
		}
		if turn != nil {
			close(turn.dry)
			select {
			case conn = <-turn.over:
			case <-ctx.Done():
				return
			}
			continue
		}
		if fin || last && isSecured(conn) {
			endWriting(conn)
		}
		if last {
			over()
			return
		}
		select {
		case <-o.bell:
		case <-ctx.Done():
			return
		}
	}
}

// secured is a connection inside TLS.
type secured interface{ NetConn() net.Conn }

func isSecured(conn net.Conn) bool {
	_, is := conn.(secured)
	return is
}

// endWriting ends our direction of a connection: inside TLS by a close_notify (RFC 8446,
// section 6.1), and of what is below it, by which servers may go as well.
func endWriting(conn net.Conn) {
	if c, can := conn.(interface{ CloseWrite() error }); can {
		_ = c.CloseWrite()
	}
	if s, is := conn.(secured); is {
		endWriting(s.NetConn())
	}
}

// take returns what waits, and what comes behind it.
func (o *outbox) take() (batch [][]byte, turn *crossing, fin, last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if turn, o.turn = o.turn, nil; turn != nil {
		return turn.before, turn, false, false
	}
	batch, o.waiting = o.waiting, nil
	fin, o.fin = o.fin, false
	return batch, nil, fin, o.last
}

func (o *outbox) gone(n int) {
	o.mu.Lock()
	o.held -= int64(n)
	o.mu.Unlock()
	o.progress()
}
