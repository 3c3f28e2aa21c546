package splitter

import (
	"errors"
	"net"
	"time"
)

// Pauses after an accept error, as net/http takes them.
const (
	pauseFirst = 5 * time.Millisecond
	pauseMost  = time.Second
)

// accept makes a flow of every connection until the front is closed. Errors
// such as EMFILE pass when flows end: clients wait in the kernel's queue while
// we pause.
func (r *Relay) accept(f *front) {
	defer r.accepts.Done()
	var pause time.Duration
	for {
		client, err := f.listener.AcceptTCP()
		if err == nil {
			pause = 0
			r.begin(client, f.choice.Load())
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		pause = nextPause(pause)
		r.faults.accepts.Add(1)
		if left, ok := r.quiet.allow("accept", time.Now()); ok {
			r.log.Warn("accept connection", "address", f.address.String(), "error", err, "pause", pause, "left_out", left)
		}
		select {
		case <-time.After(pause):
		case <-f.closed:
			return
		}
	}
}

// nextPause doubles the pause between its bounds.
func nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, pauseFirst), pauseMost)
}
