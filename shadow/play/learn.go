package play

import (
	"slices"
	"time"
)

// How often a primary is asked a second time: at most so many flows a second, and
// in flows of a protocol whose exchanges stand each for itself so many exchanges a
// second, in bursts of as many.
const (
	controlsEach  = 10
	exchangesEach = 50
)

// Before anything is known that may be asked twice, so many flows are tried, and
// then a share.
const (
	blindFirst = 200
	blindShare = 0.01
)

// recentKept is of how many exchanges that may be asked twice the endpoints are
// remembered: what flows of now are likely to ask.
const recentKept = 64

// A learner says which flows are played to the control as well. That is decided
// when a flow begins, and so never by what differed in it: else the rates would not
// compare. It is a book's, under its lock.
type learner struct {
	recent []string // a ring
	next   int
	blind  int // flows that learnt before anything was known

	flows, exchanges bucket
}

// A bucket has tokens, of which some come each second, and a second's at most.
type bucket struct {
	tokens float64
	filled time.Time
}

// saw notes the endpoint of an exchange that may be asked twice.
func (l *learner) saw(endpoint string) {
	if len(l.recent) < recentKept {
		l.recent = append(l.recent, endpoint)
		return
	}
	l.recent[l.next] = endpoint
	l.next = (l.next + 1) % recentKept
}

// wants says whether a flow that begins now is to learn; endpoint asks the same of
// one endpoint, with a number drawn from 0 on below 1.
func (l *learner) wants(endpoint func(string, float64) bool, draw float64, now time.Time) bool {
	wanted := slices.ContainsFunc(l.recent, func(name string) bool { return endpoint(name, draw) })
	if len(l.recent) == 0 {
		wanted = l.blind < blindFirst || draw < blindShare
	}
	if !wanted || !l.flows.take(now, controlsEach) {
		return false
	}
	if len(l.recent) == 0 {
		l.blind++
	}
	return true
}

// take takes a token, if there is one.
func (b *bucket) take(now time.Time, each float64) bool {
	if b.filled.IsZero() {
		b.tokens = each
	} else if since := now.Sub(b.filled); since > 0 {
		b.tokens = min(each, b.tokens+since.Seconds()*each)
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
