package splitter

import (
	"log/slog"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses after an accept error, as net/http takes them.
const (
	pauseFirst = 5 * time.Millisecond
	pauseMost  = time.Second
)

// nextPause doubles the pause between its bounds.
func nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, pauseFirst), pauseMost)
}

// resting is what a worker accepts nothing of.
type resting int

const (
	restNone resting = iota
	// restOwn is what clients of mode proxy connect to. Who is handed over by the
	// kernel would have been served without this process, and is.
	restOwn
	restAll
)

// holds says whether nothing is accepted for a front.
func (r resting) holds(f *front) bool { return r == restAll || r == restOwn && !f.inlet }

// lacking is failed where flows have all files that they may.
func (w *worker) lacking(f *front) {
	which := restOwn
	if f.inlet {
		which = restAll
	}
	w.failed(f.address.AddrPort, w.relay.files.lack, which)
}

// failed counts an accept that failed for lack of something, and rests.
func (w *worker) failed(address netip.AddrPort, cause syscall.Errno, which resting) {
	w.lack = cause
	w.rest(which)
	w.relay.faults.accepts.Add(1)
	pause := w.pause
	if left, ok := w.relay.quiet.allow("accept", time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("accept connection", "address", address.String(), "error", cause, "pause", pause, "left_out", left)
		})
	}
}

// rest accepts nothing for a while, from no listener that which holds: what is short
// comes back when flows end. Clients wait in the kernel's queue meanwhile, but for those
// who have done so for over a second.
func (w *worker) rest(which resting) {
	if w.resting >= which {
		return
	}
	w.resting = which
	w.watchAll()
	w.wakeLater()
	for place := range w.listeners {
		f := w.listeners[place].front
		if f == nil || !which.holds(f) {
			continue
		}
		w.overstay(int32(place))
		if f.inlet {
			f.choice.Load().inlet.short.Add(1)
		}
	}
}

// overstay resets who waits at a listener where somebody has always waited for over
// a second. What comes back when flows end may serve some, and so say little.
func (w *worker) overstay(place int32) {
	l := &w.listeners[place]
	if l.front == nil || l.front.udp() {
		return
	}
	switch waiting := w.edge.queued(l.socket); {
	case waiting == 0:
		l.since = 0
	case l.since == 0:
		l.since = max(w.now, 1)
	case w.now-l.since >= ticks(pauseMost):
		l.since = w.now
		w.shed(l.front, place, waiting)
	}
}

// wakeLater has the worker wake after a pause, a longer one each time.
func (w *worker) wakeLater() {
	w.pause = nextPause(w.pause)
	w.wheel.set(worksAlone, w.now+ticks(w.pause))
}

// wake accepts again.
func (w *worker) wake() {
	w.resting = restNone
	if !w.watchAll() {
		w.wakeLater()
	}
	if w.reserve < 0 {
		w.reserve, _ = newReserve()
	}
}

// watchAll is watch of all listeners.
func (w *worker) watchAll() bool {
	all := true
	for place := range w.listeners {
		if w.listeners[place].front != nil {
			all = w.watch(int32(place)) && all
		}
	}
	return all
}

// watch has the kernel tell of the listener at a place, of clients unless it rests, and
// says whether it does: there may be no room for it. Those of UDP do not rest, because
// their flows need them.
func (w *worker) watch(place int32) bool {
	l, t := &w.listeners[place], ticket{kind: ofListener, place: place}
	events := uint32(unix.EPOLLIN)
	if w.resting.holds(l.front) && !l.front.udp() {
		events = 0
	}
	switch {
	case l.watched && l.events == events:
	case l.watched:
		w.poller.change(l.socket, events, t)
	default:
		if errno := w.poller.add(l.socket, events, t); errno != 0 {
			w.unwatched(l.front.address, errno)
			return false
		}
	}
	l.watched, l.events = true, events
	return true
}

// unwatched counts and tells that the kernel does not tell of a listener.
func (w *worker) unwatched(at spot, errno syscall.Errno) {
	w.relay.faults.accepts.Add(1)
	if left, ok := w.relay.quiet.allow("watch", time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Error("watch listener: its new clients wait until it can be watched", "address", at.String(), "error", errno, "left_out", left)
		})
	}
}

// shed resets so many who wait at a listener, some at a time: the descriptor that is
// kept for that is given up for each in turn.
func (w *worker) shed(f *front, place int32, left int) {
	l := &w.listeners[place]
	if l.front != f { // it has been closed meanwhile
		return
	}
	w.edge.close(w.reserve)
	for range min(left, acceptsAtOnce) {
		socket, _, errno := w.edge.accept(l.socket)
		if errno == unix.EAGAIN || isShortage(errno) {
			left = 0
			break
		}
		if errno == 0 {
			w.edge.reset(socket)
			f.choice.Load().gate.lack(w.lack)
		}
	}
	w.reserve, _ = newReserve() // -1 closes nothing
	if left -= acceptsAtOnce; left > 0 {
		w.soon(func() { w.shed(f, place, left) })
	}
}

// newReserve makes a descriptor that is of no other use.
func newReserve() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }

// isShortage says whether an error is for lack of something that other flows
// give back when they end: accept(2), socket(2), connect(2), epoll_ctl(2).
func isShortage(errno syscall.Errno) bool {
	switch errno { //nolint:exhaustive // it picks some of all there are
	case unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EAGAIN:
		return true
	}
	return isScarce(errno)
}

// isScarce says whether it is of what accepting needs as well.
func isScarce(errno syscall.Errno) bool {
	switch errno { //nolint:exhaustive // it picks some of all there are
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ENOSPC: // the last of epoll_ctl(2)
		return true
	}
	return false
}
