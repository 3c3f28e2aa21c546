package http1

import (
	"fmt"
	"slices"
	"time"
)

// A reply is what has come of a server's reply.
type reply struct {
	head               head
	interim            []int // statuses before the final one
	body               content
	trailer            []header
	asked, first, last time.Time
	bytes              int64
	whole              bool
	endless            bool // its body ends with the connection
}

// mostInterim is how many different interim statuses are remembered.
const mostInterim = 8

// read takes what belongs to the reply from the beginning of b.
func (r *reply) read(f *framer, to *exchange, keep int, b []byte, at time.Time) (n int, err *fault) {
	for !r.whole {
		took, p, err := f.next(b[n:])
		n += took
		r.bytes += int64(took)
		if took > 0 {
			r.last = at
			if r.first.IsZero() {
				r.first = at
			}
		}
		if err != nil {
			return n, err
		}
		switch p.kind {
		case partial:
			return n, nil
		case headed:
			if err := r.begin(f, to); err != nil {
				return n, err
			}
		case payload:
			r.body.add(p.raw, keep)
		case framing:
		case whole:
			r.end(f)
		}
	}
	return n, nil
}

// begin takes a head.
func (r *reply) begin(f *framer, to *exchange) *fault {
	if f.head.status == 101 && !to.upgrades() {
		return broken(f.at, "101 that nobody asked for")
	}
	l, err := replyLength(&f.head, to.request.method, f.at)
	if err != nil {
		return err
	}
	if to.request.method == "CONNECT" && f.head.status/100 == 2 {
		l = length{} // what follows is a tunnel (RFC 9112, 6.3)
	}
	f.body(l)
	r.head, r.endless = f.head, l.close
	return nil
}

// end takes the end of a message: of the reply, or of an interim one before it.
func (r *reply) end(f *framer) {
	status := r.head.status
	if status >= 200 || status == 101 {
		r.trailer, r.whole = f.trailer, true
		return
	}
	if len(r.interim) < mostInterim && !slices.Contains(r.interim, status) {
		r.interim = append(r.interim, status)
	}
	r.head, r.first = head{}, time.Time{}
}

// over takes the end of the server's direction and says whether it makes the
// reply whole.
func (r *reply) over(f *framer) {
	r.trailer, r.whole = f.trailer, true
}

// continued says that 100 Continue has come.
func (r *reply) continued() bool { return slices.Contains(r.interim, 100) }

// class is the status' class, "2xx".
func (r *reply) class() string { return fmt.Sprintf("%dxx", r.head.status/100) }

// held is how many bytes of memory it takes.
func (r *reply) held() int {
	n := cap(r.body.kept)
	for _, lines := range [...][]header{r.head.headers, r.trailer} {
		for _, line := range lines {
			n += len(line.name) + len(line.value) + 32
		}
	}
	return n
}
