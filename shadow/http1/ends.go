package http1

import (
	"fmt"

	"github.com/splitd/splitd/shadow"
)

// breakOff ends following the client, and the primary behind what it owes still: the
// exchanges from a place on, one at least, are what the fault says.
func (s *session) breakOff(from int, who string, f *fault) {
	s.rest = f
	s.end(from, f.verdict, who+": "+f.String())
}

func (s *session) end(from int, verdict shadow.Verdict, reason string) {
	if from == len(s.queue) {
		s.queue = append(s.queue, &exchange{endpoint: unknown})
	}
	for _, e := range s.queue[from:] {
		e.give(verdict, reason)
		e.settled = true
		s.leave(e)
	}
}

func (s *session) clientEnds(end shadow.End) {
	if end == shadow.Reset {
		defer s.primaryEnds(end) // nothing of it is relayed any more
	}
	if s.clientOver {
		return
	}
	s.clientOver = true
	switch {
	case s.tunnel != nil:
		s.tunnel.clientEnds(s, end)
	case s.rest != nil || s.primaryOver:
	case s.asking != nil:
		s.clientGivesUp()
	case !s.client.idle():
		s.breakOff(len(s.queue), "client", broken(s.client.at, "request that ends before it is whole"))
	}
}

// clientGivesUp is told that the client ends in the middle of a request.
func (s *session) clientGivesUp() {
	at := s.asked()
	if at == len(s.queue) {
		return // it was answered early, by both
	}
	f := broken(s.client.at, "request that ends before it is whole")
	if s.asking.primary.whole {
		f = &fault{shadow.AfterDivergence, "the primary has answered early, the client has given up its request", s.client.at}
	}
	s.breakOff(at, "client", f)
}

func (s *session) primaryEnds(end shadow.End) {
	if s.primaryOver {
		return
	}
	s.primaryOver = true
	if s.tunnel != nil {
		s.tunnel.primaryEnds(end)
		return
	}
	at := s.answering()
	if at == len(s.queue) || s.queue[at].settled {
		return
	}
	if e := s.queue[at]; s.primary.over(end) {
		e.primary.over(&s.primary)
		s.primaryAnswers(at, e)
		at++
	} else if e.primary.bytes > 0 {
		verdict, reason := shadow.PrimaryError, fmt.Sprintf("primary's reply ends at byte %d before it is whole: %s", e.primary.bytes, end)
		if s.clientOver {
			verdict, reason = shadow.Truncated, fmt.Sprintf("client has left at byte %d of the primary's reply", e.primary.bytes)
		}
		e.give(verdict, reason)
		e.settled = true
		s.leave(e)
		at++
	}
	if at == len(s.queue) {
		return
	}
	reason := fmt.Sprintf("primary has not answered: %s", end)
	if s.clientOver {
		reason = "client has left before the primary has answered"
	}
	s.end(at, shadow.PrimaryError, reason)
}
