package http1

import (
	"fmt"

	"github.com/splitd/splitd/shadow"
)

// mostFailures is how often in a row a candidate may fail before its flow sends it
// nothing more.
const mostFailures = 3

// play gives the candidate what it may have now, and says whether it did.
func (s *session) play() bool {
	if s.playing != nil {
		return s.feed(s.playing)
	}
	for _, e := range s.queue {
		if e.verdict != "" || e.settled {
			continue
		}
		if e.candidate.whole {
			if !e.safe {
				return false // the two may know different things behind it
			}
			continue
		}
		if s.control && !e.primary.whole {
			return false // its own client comes first
		}
		s.begin(e)
		return s.feed(e)
	}
	return false
}

// begin gives an exchange to the candidate, by a new connection when the old one
// will not do.
func (s *session) begin(e *exchange) {
	if s.stale {
		s.moves.Redial, s.moves.Send = true, nil
		s.candidate = framer{most: s.keep, replies: true}
		s.stale, s.reused, s.early = false, false, nil
	}
	s.playing = e
	e.candidate.asked = s.now
}

// feed sends what is held of the request in play.
func (s *session) feed(e *exchange) bool {
	b := e.unsent
	e.unsent = nil
	if !e.waits || e.candidate.continued() {
		b = append(b, e.body...)
		e.body = nil
	}
	if len(b) == 0 {
		return false
	}
	if s.mayResend(e) && len(e.sent)+len(b) <= s.keep {
		e.sent = append(e.sent, b...)
	} else {
		e.sent, e.again = nil, true
	}
	s.moves.Send = append(s.moves.Send, b...)
	e.candidate.asked = s.now
	return true
}

// mayResend says whether a request may be sent once more when the connection is
// closed instead of an answer (RFC 9112, 9.3.1): the candidate may have closed it
// for being idle while the request was on its way.
func (s *session) mayResend(e *exchange) bool {
	return s.reused && e.safe && !e.again && e.candidate.bytes == 0
}

// connected is told that the candidate has what it was to be sent: only now is it asked.
func (s *session) connected() {
	if e := s.playing; e != nil && e.candidate.bytes == 0 {
		e.candidate.asked = s.now
	}
}

func (s *session) hearCandidate(b []byte) {
	for !s.over && (len(b) > 0 || s.playing != nil) {
		if s.tunnel != nil && s.tunnel.open {
			s.tunnel.hearCandidate(s, b)
			return
		}
		e := s.playing
		if e == nil {
			s.unasked(b)
			return
		}
		n, err := e.candidate.read(&s.candidate, e, s.keep, b, s.now)
		b = b[n:]
		if e.candidate.bytes > 0 {
			e.sent = nil
		}
		if err != nil && err.verdict == shadow.Truncated {
			e.give(err.verdict, "candidate: "+err.String())
			s.leave(e)
			return
		}
		if err != nil {
			s.fail(e, "candidate: "+err.String())
			return
		}
		if !e.candidate.whole {
			return
		}
		s.candidateAnswers(e)
		if len(b) == 0 {
			return
		}
		s.goOn() // as if the rest came later
		if s.moves.Redial {
			return // it is of the old connection
		}
	}
}

// unasked is told of bytes of the candidate that answer nothing: those of another
// protocol, after a 101, or those that make its connection useless.
func (s *session) unasked(b []byte) {
	if s.stale || len(s.queue) == 0 || s.queue[len(s.queue)-1].candidate.head.status != 101 {
		s.stale = true
		return
	}
	if len(s.early)+len(b) > s.keep {
		s.early, s.stale = nil, true
		return
	}
	s.early = append(s.early, b...)
}

func (s *session) candidateAnswers(e *exchange) {
	s.playing, s.failures, s.reused = nil, 0, true
	all := e.asked && len(e.unsent)+len(e.body) == 0
	e.unsent, e.body = nil, nil
	if !all || !e.request.persists() || !e.candidate.head.persists() {
		s.stale = s.stale || e.candidate.head.status != 101
	}
}

func (s *session) candidateEnds(end shadow.End) {
	if s.tunnel != nil && s.tunnel.open {
		s.tunnel.candidateEnds(end)
		return
	}
	e := s.playing
	switch {
	case e == nil:
		s.stale = true
	case s.candidate.over(end):
		e.candidate.over(&s.candidate)
		s.candidateAnswers(e)
		s.stale = true
	case (end == shadow.Closed || end == shadow.Reset) && s.mayResend(e) && len(e.sent) > 0:
		e.unsent, e.sent, e.again = e.sent, nil, true
		s.playing, s.stale = nil, true
	case e.candidate.bytes > 0:
		s.fail(e, fmt.Sprintf("candidate's reply ends at byte %d before it is whole: %s", e.candidate.bytes, end))
	case e.waits && end == shadow.TimedOut:
		s.fail(e, "candidate has not said 100 Continue: timed out")
	default:
		s.fail(e, fmt.Sprintf("no answer: %s", end))
	}
}

// fail ends an exchange that the candidate has failed in. The next one begins with
// a new connection; after some in a row none does.
func (s *session) fail(e *exchange, reason string) {
	e.give(shadow.CandidateError, reason)
	s.playing, s.stale = nil, true
	if s.failures++; s.failures == mostFailures {
		s.hush(shadow.CandidateError, "not sent: the candidate has failed too often in a row")
	}
}

// hush sends nothing more: what is asked from now on is counted as the verdict
// says.
func (s *session) hush(verdict shadow.Verdict, reason string) {
	s.mute = &fault{verdict: verdict, reason: reason}
	for _, e := range s.queue {
		if !e.candidate.whole {
			e.give(verdict, reason)
			s.leave(e)
		}
	}
	s.moves.FIN = true
}
