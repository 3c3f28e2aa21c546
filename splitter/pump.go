package splitter

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of what is moved between two looks at the clock. A chunk grows while
// it passes fast and shrinks for a slow receiver, so that bytes are counted
// soon after they have moved.
const (
	chunkLeast = 16 << 10
	chunkFirst = 64 << 10
	chunkMost  = 1 << 20
	chunkSlow  = 250 * time.Millisecond
	chunkFast  = 10 * time.Millisecond

	// countEvery bounds how long bytes that have moved stay uncounted.
	countEvery = 500 * time.Millisecond
)

// direction moves what src sends to dst.
type direction struct {
	flow     *flow
	src, dst *side
	bytes    *atomic.Uint64
	rest     io.LimitedReader
}

// run pumps until src ends, passes the FIN on and then only watches src for an
// RST while the other direction goes on. The direction that ends last closes
// the flow.
func (d *direction) run(both *sync.WaitGroup) {
	defer both.Done()
	defer d.flow.guard()
	err := d.pump()
	if err == nil {
		err = d.dst.shutWrite()
	}
	if err == nil {
		if d.flow.ended.Add(1) == 2 {
			d.flow.finish()
			return
		}
		err = d.src.awaitReset()
	}
	if err != nil && !d.lastWords() {
		d.flow.abort()
	}
}

// lastWords says whether dst is dead but src is not: then the other direction
// still passes on what dst sent before it died (a server that answers "too
// large" and closes), finds the end of it at once, and cuts the flow off.
func (d *direction) lastWords() bool { return d.dst.dead() && !d.src.dead() }

// pump moves bytes until src ends with a FIN, which is nil. While nothing
// moves it holds neither a pipe nor a timer.
func (d *direction) pump() error {
	for {
		if err := d.src.awaitReadable(); err != nil {
			return err
		}
		ended, err := d.burst()
		if ended || err != nil {
			return err
		}
	}
}

// burst moves bytes until src has been silent for countEvery (false) or has
// ended (true). A read deadline loses no byte of a splice: it only ever
// interrupts the wait for src, when the pipe between is empty.
func (d *direction) burst() (bool, error) {
	chunk := int64(chunkFirst)
	for {
		start := time.Now()
		if err := d.src.conn.SetReadDeadline(start.Add(countEvery)); err != nil {
			return false, err
		}
		d.rest = io.LimitedReader{R: d.src.conn, N: chunk}
		// Nothing may stand between the two *net.TCPConn but a LimitedReader:
		// any other wrapper turns splice(2) into a copy (net/splice_linux.go).
		n, err := io.Copy(d.dst.conn, &d.rest)
		d.bytes.Add(uint64(n))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if n == 0 {
				return false, d.src.conn.SetReadDeadline(time.Time{})
			}
		case err != nil:
			return false, err
		case d.rest.N > 0:
			return d.end()
		}
		chunk = nextChunk(chunk, time.Since(start))
	}
}

// end tells a FIN from an RST whose error the other direction has already
// been given: the kernel reports it once, and an end of stream to whom asks
// next (sock_error in include/net/sock.h).
func (d *direction) end() (bool, error) {
	if d.src.dead() {
		return false, syscall.ECONNRESET
	}
	return true, d.src.conn.SetReadDeadline(time.Time{})
}

// nextChunk sizes the next chunk by how long the last one took.
func nextChunk(chunk int64, took time.Duration) int64 {
	switch {
	case took < chunkFast:
		return min(2*chunk, chunkMost)
	case took > chunkSlow:
		return max(chunk/2, chunkLeast)
	}
	return chunk
}
