package runner

import (
	"sync/atomic"

	"github.com/splitd/splitd/shadow"
)

// queue passes events from one goroutine to another without a lock: whoever puts
// one in never waits.
type queue struct {
	first *link // taken already; the taker's
	last  *link // the giver's
	bell  chan struct{}
}

type link struct {
	event shadow.Event
	next  atomic.Pointer[link]
}

func newQueue() *queue {
	l := &link{}
	return &queue{first: l, last: l, bell: make(chan struct{}, 1)}
}

// put appends an event, whose bytes are the queue's from now on.
func (q *queue) put(e shadow.Event) {
	l := &link{event: e}
	q.last.next.Store(l)
	q.last = l
	q.ring()
}

// ring wakes the taker up. Anybody may.
func (q *queue) ring() {
	select {
	case q.bell <- struct{}{}:
	default: // it has not heard the last one yet
	}
}

// costs is what an event takes that is queued.
func costs(e shadow.Event) int64 {
	n := int64(len(e.Bytes)) + overhead
	if e.TLS != nil {
		n += int64(e.TLS.Size())
	}
	return n
}

// take returns the oldest event, false when there is none.
func (q *queue) take() (shadow.Event, bool) {
	l := q.first.next.Load()
	if l == nil {
		return shadow.Event{}, false
	}
	q.first = l
	e := l.event
	l.event = shadow.Event{} // it stays until the next is taken
	return e, true
}
