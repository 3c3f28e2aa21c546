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
	held      int64 // bytes waiting, or being written
	fin, last bool  // behind them
	bell      chan struct{}
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
		batch, fin, last := o.take()
		for _, bytes := range batch {
			if _, err := conn.Write(bytes); err != nil {
				return
			}
			o.gone(len(bytes))
		}
		if c, can := conn.(interface{ CloseWrite() error }); fin && can {
			_ = c.CloseWrite()
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

// take returns what waits, and what comes behind it.
func (o *outbox) take() (batch [][]byte, fin, last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch, o.waiting = o.waiting, nil
	fin, o.fin = o.fin, false
	return batch, fin, o.last
}

func (o *outbox) gone(n int) {
	o.mu.Lock()
	o.held -= int64(n)
	o.mu.Unlock()
	o.progress()
}
