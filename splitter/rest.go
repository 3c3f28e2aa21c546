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

// failed counts an accept that failed for lack of something, and rests.
func (w *worker) failed(address netip.AddrPort, cause error) {
	w.rest()
	w.relay.faults.accepts.Add(1)
	pause := w.pause
	if left, ok := w.relay.quiet.allow("accept", time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("accept connection", "address", address.String(), "error", cause, "pause", pause, "left_out", left)
		})
	}
}

// rest accepts nothing for a while, from no listener: what is short comes back
// when flows end. Clients wait in the kernel's queue meanwhile, but for those
// who have done so for over a second.
func (w *worker) rest() {
	if w.resting {
		return
	}
	w.resting = true
	w.pause = nextPause(w.pause)
	w.watch(0)
	w.wheel.set(worksAlone, w.now+ticks(w.pause))
	if w.pause == pauseMost {
		w.shed()
	}
}

// wake accepts again.
func (w *worker) wake() {
	w.resting = false
	w.watch(unix.EPOLLIN)
	if w.reserve < 0 {
		w.reserve, _ = newReserve()
	}
}

// watch changes what is asked about all listeners, but for those of UDP: their
// flows need them.
func (w *worker) watch(events uint32) {
	for i, l := range w.listeners {
		if l.front != nil && !l.front.udp() {
			_ = w.poller.change(l.socket, events, ticket{kind: ofListener, place: int32(i)})
		}
	}
}

// shed resets who waits at the listeners: the descriptor that is kept for that
// is given up for each in turn.
func (w *worker) shed() {
	w.edge.close(w.reserve)
	for _, l := range w.listeners {
		for range backlog {
			if l.front == nil || l.front.udp() {
				break
			}
			socket, _, errno := w.edge.accept(l.socket)
			if errno == unix.EAGAIN || isShortage(errno) {
				break
			}
			if errno == 0 {
				w.edge.reset(socket)
				l.front.choice.Load().gate.lack(w.relay.files.lack)
			}
		}
	}
	w.reserve, _ = newReserve() // -1 closes nothing
}

// newReserve makes a descriptor that is of no other use.
func newReserve() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC) }

// isShortage says whether an error is for lack of something that other flows
// give back when they end: accept(2), socket(2), connect(2).
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
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		return true
	}
	return false
}
