package splitter

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// circuitFailures is how many connects have to fail in a row before a
	// candidate is left out.
	circuitFailures = 5
	// circuitPause is how long it is left out before it is tried again; twice as
	// long each time that fails.
	circuitPause     = time.Second
	circuitPauseMost = 30 * time.Second
	// probePatience bounds a probe where the split has no connect timeout.
	probePatience = 5 * time.Second
)

// breaker is what is known of connects to one address of a candidate. Times are
// ticks. The zero value is a candidate that takes flows.
type breaker struct {
	failures int   // in a row
	retry    int64 // not to be tried before; 0: it takes flows
	pause    time.Duration
	trial    bool // it can be connected, and one flow at a time is to find out whether it serves
}

// open says that flows are kept away, as a circuit does that is open.
func (b breaker) open() bool { return b.retry != 0 }

// failed is b after a flow could not be connected.
func (b breaker) failed(now int64) breaker {
	b.failures++
	if b.open() && !b.trial || b.failures < circuitFailures {
		return b // those that had begun before it opened do not count again
	}
	b.trial = false
	b.pause = longer(b.pause)
	b.retry = now + ticks(b.pause)
	return b
}

// longer is the pause after a pause.
func longer(pause time.Duration) time.Duration {
	return min(max(2*pause, circuitPause), circuitPauseMost)
}

// asked is b after a flow has asked whether it may go there, and the answer. A
// client's flow may while it takes flows, and as a trial: then no other before its
// outcome is known, or patience is over. Where it may not it may be time for a
// probe, of which no client waits for the outcome.
func (b breaker) asked(now, patience int64) (_ breaker, away, probe bool) {
	switch {
	case !b.open():
		return b, false, false
	case now < b.retry:
		return b, true, false
	case b.trial:
		b.retry = now + patience
		return b, false, false
	}
	b.retry = now + ticks(circuitPauseMost) // unless its outcome is known before
	return b, true, true
}

// probeFailed is b after a probe could not be connected.
func (b breaker) probeFailed(now int64) breaker {
	b.pause = longer(b.pause)
	b.retry = now + ticks(b.pause)
	return b
}

// probeLacked is b after a probe that this host could not make, which says nothing of
// the candidate. Flows may have been served meanwhile, or found to be on trial.
func (b breaker) probeLacked(now int64) breaker {
	if b.open() && !b.trial {
		b.retry = now + ticks(b.pause)
	}
	return b
}

// probeServed is b after a probe has been connected: it takes flows, but the
// first that fails opens it again, for longer.
func (b breaker) probeServed() breaker {
	b.failures, b.retry = circuitFailures-1, 0
	return b
}

// probeConnected is probeServed where being connected is not enough: flows of
// clients are on trial.
func (b breaker) probeConnected(now int64) breaker {
	b.trial, b.retry = true, max(now, 1)
	return b
}

// circuit is a breaker that all workers share.
type circuit struct {
	mu      sync.Mutex
	breaker breaker
	since   time.Time // when it opened

	// What flows read without the lock.
	open    atomic.Bool
	failing atomic.Bool

	answered atomic.Int64 // the tick of the newest answer, see spoke
}

// change replaces the breaker, and says whether the circuit opened or closed.
func (c *circuit) change(next func(breaker) breaker) (opened, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.breaker
	c.breaker = next(before)
	c.open.Store(c.breaker.open())
	c.failing.Store(c.breaker.failures > 0)
	opened, closed = !before.open() && c.breaker.open(), before.open() && !c.breaker.open()
	if opened {
		c.since = time.Now()
	}
	return opened, closed
}

// openSince says since when flows are kept away, if they are.
func (c *circuit) openSince() (since time.Time, open bool) {
	if c == nil || !c.open.Load() {
		return time.Time{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.breaker.open()
}

// served says that a flow has been; it returns whether that closed the circuit.
func (c *circuit) served() (closed bool) {
	if c != nil && c.failing.Load() {
		_, closed = c.change(func(breaker) breaker { return breaker{} })
	}
	return closed
}

// spoke says that the backend has answered somebody.
func (c *circuit) spoke(now int64) {
	if c != nil && c.answered.Load() < now {
		c.answered.Store(now)
	}
}

// spokeAfter says whether the backend has answered anybody after that tick. Then
// one that it does not answer has said what asks for no answer, or is nobody.
func (c *circuit) spokeAfter(tick int64) bool { return c != nil && c.answered.Load() > tick }

// failed says that a flow could not be connected.
func (c *circuit) failed(now int64) (opened bool) {
	if c == nil {
		return false
	}
	opened, _ = c.change(func(b breaker) breaker { return b.failed(now) })
	return opened
}

// keepsAway says whether flows go to the primary instead, and whether the
// caller is to probe. A flow on trial may take as many ticks as patience.
func (c *circuit) keepsAway(now, patience int64) (away, probe bool) {
	if c == nil || !c.open.Load() {
		return false, false
	}
	c.change(func(b breaker) breaker {
		b, away, probe = b.asked(now, patience)
		return b
	})
	return away, probe
}
