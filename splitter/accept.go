package splitter

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// batchesFilled is how many batches in a row make the next one larger.
const batchesFilled = 4

// listener is a worker's own listener of a front.
type listener struct {
	front   *front // nil when it is closed
	socket  int
	watched bool   // the kernel tells of it
	events  uint32 // these
	batch   int    // so many are accepted at once
	filled  int    // batches in a row for which there were enough
	since   int64  // the tick from which on somebody has always waited, 0: nobody need have

	// Of UDP, while the front goes: it takes no new flows, or for another one that
	// covers its address.
	leave *leave
	cover *front
}

// listen begins to accept from a front's listener, which the worker has from
// now on.
func (w *worker) listen(f *front, socket int) {
	place := slices.IndexFunc(w.listeners, func(l listener) bool { return l.front == nil })
	if place < 0 {
		place = len(w.listeners)
		w.listeners = append(w.listeners, listener{})
	}
	w.listeners[place] = listener{front: f, socket: socket, batch: 1}
	if w.hasEnded() {
		w.abandon(int32(place))
		return
	}
	if f.udp() {
		w.prepare()
	}
	if !w.watch(int32(place)) {
		w.wakeLater() // which tries again
	}
}

// knocked does what news of a listener ask for.
func (w *worker) knocked(place int32) {
	switch l := &w.listeners[place]; {
	case l.front == nil: // it has been closed meanwhile
	case l.front.udp():
		w.receive(place)
	default:
		w.accept(place)
	}
}

// accept makes flows of connections that wait at a listener; the kernel tells
// of the rest again. There is one, mostly, and to find that no other waits costs
// a good part of what an accept does: so it takes one, and more when there were
// always enough.
func (w *worker) accept(place int32) {
	l := &w.listeners[place]
	for range l.batch {
		if w.relay.files.short(filesOfFlow, l.front.inlet) {
			w.lacking(l.front)
			return
		}
		socket, client, errno := w.edge.accept(l.socket)
		switch {
		case errno == 0:
			w.admit(socket, client, l.front)
			if l.since != 0 && w.edge.queued(l.socket) == 0 {
				l.since = 0
			}
			if w.resting.holds(l.front) {
				return
			}
		case errno == unix.EAGAIN:
			l.batch, l.filled = 1, 0
			return
		case isShortage(errno):
			w.failed(l.front.address.AddrPort, errno, restAll)
			return
		default: // the connection's own error, accept(2): it is gone
		}
	}
	if l.filled++; l.filled >= batchesFilled {
		l.batch, l.filled = min(2*l.batch, acceptsAtOnce), 0
	}
}

// leave closes the listener of a front after it has made flows of the
// connections that wait there, some at a time, and calls done: of those that have
// come before, or it would never end while many come.
func (w *worker) leave(f *front, done func()) {
	place := w.placeOf(f)
	switch {
	case place < 0: // the worker has ended
		done()
	case f.udp():
		w.takeRest(place)
		w.close(place)
		done()
	default:
		w.leaveAfter(f, place, w.edge.queued(w.listeners[place].socket)+acceptsAtOnce, done)
	}
}

func (w *worker) leaveAfter(f *front, place int32, left int, done func()) {
	l := &w.listeners[place]
	if l.front != f { // it has been closed meanwhile
		done()
		return
	}
	for range min(left, acceptsAtOnce) {
		errno := w.relay.files.lack
		var socket int
		var client netip.AddrPort
		if !w.relay.files.short(filesOfFlow, f.inlet) {
			socket, client, errno = w.edge.accept(l.socket)
		}
		switch {
		case errno == 0:
			w.admit(socket, client, f)
		case errno == unix.EAGAIN:
			left = 0
		case isShortage(errno): // the kernel resets them
			for range w.edge.queued(l.socket) {
				f.choice.Load().gate.lack(errno)
			}
			left = 0
		}
		if left == 0 {
			break
		}
	}
	if left -= acceptsAtOnce; left > 0 {
		w.soon(func() { w.leaveAfter(f, place, left, done) })
		return
	}
	w.close(place)
	done()
}

// close closes the listener at a place.
func (w *worker) close(place int32) {
	l := &w.listeners[place]
	if l.front == nil {
		return
	}
	w.edge.close(l.socket)
	*l = listener{}
}

// abandon leaves a listener's clients to the other workers, which is for one that fails:
// all others have none when they end. Its number is taken until the relay has ended,
// because its front knows it and may set options on it.
func (w *worker) abandon(place int32) {
	l := &w.listeners[place]
	if l.front == nil {
		return
	}
	_ = unix.Shutdown(l.socket, unix.SHUT_RD) // it listens no more (inet_shutdown in net/ipv4/af_inet.c)
	w.abandoned = append(w.abandoned, l.socket)
	*l = listener{}
}
