package runner

import "time"

const (
	// breakerFailures is how many shadows in a row have to fail before flows are no
	// longer played to the candidate.
	breakerFailures = 5
	// breakerPause is how long none is then, twice as long each time that the next
	// one fails too.
	breakerPause     = time.Second
	breakerPauseMost = time.Minute
)

// A Breaker is what is known of a candidate from the shadows that were played to
// it. It is a value; the zero one lets all flows through.
type Breaker struct {
	failures int // in a row
	pause    time.Duration
	retry    time.Time // zero while it is closed
	reason   string    // of the newest failure
}

// Open says whether flows are kept from the candidate, and why.
func (b Breaker) Open() (reason string, open bool) { return b.reason, !b.retry.IsZero() }

// Rests is for how long yet no flow may be played, also while the outcome of one is
// waited for; 0 while it is closed, and when the next one may.
func (b Breaker) Rests(now time.Time) time.Duration {
	if b.retry.IsZero() {
		return 0
	}
	return max(0, b.retry.Sub(now))
}

// Ask is b after a flow has asked whether it may be played. Behind an open breaker
// one may when the pause is over, and no other before its outcome is known or
// patience is over.
func (b Breaker) Ask(now time.Time, patience time.Duration) (Breaker, bool) {
	if b.retry.IsZero() {
		return b, true
	}
	if now.Before(b.retry) {
		return b, false
	}
	b.retry = now.Add(patience)
	return b, true
}

// Failed is b after a shadow that the candidate has failed.
func (b Breaker) Failed(now time.Time, reason string) Breaker {
	b.failures++
	b.reason = reason
	if b.failures < breakerFailures {
		return b
	}
	b.pause = min(max(2*b.pause, breakerPause), breakerPauseMost)
	b.retry = now.Add(b.pause)
	return b
}

// Served is b after one that it answered.
func (b Breaker) Served() Breaker { return Breaker{} }
