package splitter

import (
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses after an accept error, as net/http takes them.
const (
	pauseFirst = 5 * time.Millisecond
	pauseMost  = time.Second
)

// listener is a worker's own listener of a front.
type listener struct {
	front  *front // nil when it is closed
	socket int
}

// listen begins to accept from a front's listener, which the worker has from
// now on.
func (w *worker) listen(f *front, socket int) {
	place := slices.IndexFunc(w.listeners, func(l listener) bool { return l.front == nil })
	if place < 0 {
		place = len(w.listeners)
		w.listeners = append(w.listeners, listener{})
	}
	w.listeners[place] = listener{front: f, socket: socket}
	events := uint32(unix.EPOLLIN)
	if w.resting {
		events = 0 // with the others
	}
	if errno := w.poller.add(socket, events, ticket{kind: ofListener, place: int32(place)}); errno != 0 {
		w.relay.faults.accepts.Add(1)
		w.relay.say(func(log *slog.Logger) { log.Error("watch listener", "address", f.address.String(), "error", errno) })
	}
}

// accept makes flows of connections that wait at a listener: as many as one
// round allows, the kernel tells of the rest again.
func (w *worker) accept(place int32) {
	l := w.listeners[place]
	if l.front == nil {
		return
	}
	for range acceptsAtOnce {
		socket, client, errno := w.edge.accept(l.socket)
		switch {
		case errno == 0:
			w.pause = 0
			w.admit(socket, client, l.front.choice.Load())
		case errno == unix.EAGAIN:
			return
		case isShortage(errno):
			w.rest(l, errno)
			return
		default: // the connection's own error, accept(2): it is gone
		}
	}
}

// rest stops accepting for a while: what is short comes back when flows end.
// Clients wait in the kernel's queue meanwhile.
func (w *worker) rest(l listener, cause error) {
	w.pause = nextPause(w.pause)
	w.watch(0)
	w.wheel.set(worksAlone, w.now+ticks(w.pause))
	w.relay.faults.accepts.Add(1)
	if w.pause == pauseMost {
		w.shed(l)
	}
	pause := w.pause
	if left, ok := w.relay.quiet.allow("accept", time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("accept connection", "address", l.front.address.String(), "error", cause, "pause", pause, "left_out", left)
		})
	}
}

// shed resets who has waited at a listener for over a second while nothing was
// to be had to serve them with: the descriptor that is kept for that is given
// up for each in turn.
func (w *worker) shed(l listener) {
	w.edge.close(w.reserve)
	for range backlog {
		socket, _, errno := w.edge.accept(l.socket)
		if errno == unix.EAGAIN || isShortage(errno) {
			break
		}
		if errno == 0 {
			w.edge.reset(socket)
			l.front.choice.Load().gate.noFiles.Add(1)
		}
	}
	w.reserve, _ = newReserve() // -1 closes nothing
}

// newReserve makes a descriptor that is of no other use.
func newReserve() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }

// watch changes what is asked about all listeners.
func (w *worker) watch(events uint32) {
	for i, l := range w.listeners {
		if l.front != nil {
			_ = w.poller.change(l.socket, events, ticket{kind: ofListener, place: int32(i)})
		}
	}
}

// nextPause doubles the pause between its bounds.
func nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, pauseFirst), pauseMost)
}

// leave closes the listener of a front after it has made flows of the
// connections that wait there.
func (w *worker) leave(f *front) {
	for i, l := range w.listeners {
		if l.front != f {
			continue
		}
		for {
			socket, client, errno := w.edge.accept(l.socket)
			if errno == unix.EAGAIN || isShortage(errno) {
				break
			}
			if errno == 0 {
				w.admit(socket, client, f.choice.Load())
			}
		}
		w.close(int32(i))
	}
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
