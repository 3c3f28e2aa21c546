package http1

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A session is the driver of one flow.
type session struct {
	options Options
	names   *templates
	keep    int
	control bool
	again   func(endpoint string) bool // nil: always

	client, primary, candidate framer

	queue   []*exchange // begun and not returned, in order
	asking  *exchange   // whose request the client is saying
	upgrade *exchange   // whose answer the client waits for: it may end HTTP
	playing *exchange   // whose request is with the candidate
	tunnel  *tunnel     // what follows HTTP

	rest                    *fault // why the client is no longer followed
	clientOver, primaryOver bool
	mute                    *fault // why nothing more is sent
	stale                   bool   // the candidate's connection is of no more use
	reused                  bool   // it has answered on it
	failures                int    // of the candidate, one after another
	early                   []byte // what the candidate said after a 101 of its own alone

	now      time.Time
	moves    shadow.Moves
	returned int
	over     bool
}

func newSession(o Options, names *templates, s shadow.Session) *session {
	keep := max(s.Keep, 0)
	if s.Control {
		o.CandidateHosts = o.PrimaryHosts // it is the primary, or one like it
	}
	return &session{
		options: o, names: names, keep: keep, control: s.Control, again: s.Again,
		client:    framer{most: keep},
		primary:   framer{most: keep, replies: true},
		candidate: framer{most: keep, replies: true},
	}
}

// Hear takes an event and returns what is to be done.
func (s *session) Hear(e shadow.Event) shadow.Moves {
	if s.over {
		return shadow.Moves{Done: true}
	}
	s.moves, s.now = shadow.Moves{}, e.At
	switch e.From {
	case shadow.Client:
		s.hearClient(e.Bytes)
		if e.End != shadow.Open {
			s.clientEnds(e.End)
		}
	case shadow.Primary:
		s.hearPrimary(e.Bytes)
		if e.End != shadow.Open {
			s.primaryEnds(e.End)
		}
	case shadow.Candidate:
		if len(e.Bytes) == 0 && e.End == shadow.Open {
			s.connected()
			break
		}
		s.hearCandidate(e.Bytes)
		if e.End != shadow.Open && !s.moves.Redial {
			s.candidateEnds(e.End)
		}
	}
	s.proceed()
	return s.moves
}

// goOn returns what is finished, and gives the candidate what it may have then.
func (s *session) goOn() {
	for {
		s.settle()
		if !s.play() {
			return
		}
	}
}

// proceed does what has become possible.
func (s *session) proceed() {
	s.goOn()
	if s.tunnel != nil {
		s.tunnel.proceed(s)
	} else if len(s.queue) == 0 && (s.rest != nil || s.clientOver || s.primaryOver) {
		s.over = true
	}
	s.moves.Done = s.over
	// While the primary thinks about it, or says it slowly, the candidate may.
	s.moves.Owed = !s.over && (s.playing != nil && s.playing.primary.whole || s.tunnel != nil && s.tunnel.owed())
}

// settle returns what is finished, in order.
func (s *session) settle() {
	for len(s.queue) > 0 && s.queue[0].finished() {
		e := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		if s.playing == e { // an early end: its connection is in the middle of it
			s.playing, s.stale = nil, true
		}
		s.finish(e)
	}
}

// Held is how many bytes are held back.
func (s *session) Held() int {
	n := s.client.held() + s.primary.held() + s.candidate.held() + cap(s.early)
	for _, e := range s.queue {
		n += e.held()
	}
	if s.tunnel != nil {
		n += s.tunnel.held()
	}
	return n
}

// Stop ends the session.
func (s *session) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	s.moves = shadow.Moves{}
	if s.rest == nil && s.tunnel == nil && !s.client.idle() && s.asking == nil {
		s.queue = append(s.queue, &exchange{endpoint: unknown})
	}
	for _, e := range s.queue {
		e.give(why, reason)
		s.emit(e.report(s.options, s.keep))
	}
	s.queue, s.playing = nil, nil
	if s.tunnel != nil {
		s.tunnel.give(s, why, reason)
	}
	if s.returned == 0 {
		s.emit(shadow.Exchange{Endpoint: unknown, Verdict: why, Reason: reason})
	}
	s.over, s.client = true, framer{}
	return s.moves.Exchanges
}

func (s *session) emit(x shadow.Exchange) {
	s.returned++
	s.moves.Exchanges = append(s.moves.Exchanges, x)
}

func (s *session) hearClient(b []byte) {
	for s.rest == nil && !s.primaryOver && !s.over {
		if s.tunnel != nil {
			s.tunnel.hearClient(s, b)
			return
		}
		if s.upgrade != nil && len(b) > 0 {
			s.breakOff(len(s.queue), "client", broken(s.client.at, "request before the answer to an upgrade"))
			return
		}
		n, p, err := s.client.next(b)
		b = b[n:]
		if err != nil {
			s.breakOff(s.asked(), "client", err)
			return
		}
		switch p.kind {
		case partial:
			return
		case headed:
			s.asks(p.raw)
		case payload:
			s.asking.size += int64(len(p.raw))
			s.says(p.raw)
		case framing:
			s.says(p.raw)
		case whole:
			s.asking.asked = true
			if s.asking.primary.first.IsZero() {
				s.asking.primary.asked = s.now
			}
			s.asking = nil
		}
	}
}

// asks begins an exchange with a request's head.
func (s *session) asks(raw []byte) {
	e := &exchange{request: s.client.head, endpoint: unknown}
	l, err := requestLength(&e.request, s.client.at)
	if err != nil {
		s.breakOff(len(s.queue), "client", err)
		return
	}
	s.client.body(l)
	taken := methods(&e.request)
	e.safe = !slices.ContainsFunc(taken, func(method string) bool { return !isSafe(method) })
	e.endpoint = s.names.endpoint(taken[0], pathOf(e.request.target))
	s.queue, s.asking = append(s.queue, e), e
	if e.upgrades() || e.request.method == "CONNECT" {
		s.upgrade = e
	}
	if why := s.refuses(e, taken); why != "" {
		e.give(shadow.Skipped, why)
	} else if s.mute != nil {
		e.give(s.mute.verdict, s.mute.reason)
	} else {
		e.unsent = s.guarded(raw)
		s.play()
	}
}

// refuses says why a request is not sent that may be taken for these methods, empty
// when it may be.
func (s *session) refuses(e *exchange, methods []string) string {
	if why := s.options.refuses(&e.request, methods); why != "" || !s.control {
		return why
	}
	return e.once()
}

// guarded is a head with the header that guards from loops, behind its first line.
func (s *session) guarded(raw []byte) []byte {
	if s.options.LoopGuard == "" {
		return append([]byte(nil), raw...)
	}
	line, rest, _ := strings.Cut(string(raw), "\r\n")
	return []byte(line + "\r\n" + s.options.LoopGuard + ": 1\r\n" + rest)
}

// says is told of more of a request.
func (s *session) says(raw []byte) {
	e := s.asking
	if e.verdict != "" || e.settled || e.candidate.whole {
		return
	}
	if !e.speaks {
		// who waits for the primary's word waits for the candidate's
		e.speaks, e.waits = true, e.expects() && (e.primary.continued() || e.primary.whole)
	}
	e.body = append(e.body, raw...)
	s.play()
	if len(e.unsent)+len(e.body) > s.keep {
		e.give(shadow.Truncated, fmt.Sprintf("request is longer than the %d bytes that are held back", s.keep))
		s.leave(e)
	}
}

// leave gives up the candidate's connection when it is in the middle of an exchange.
func (s *session) leave(e *exchange) {
	if s.playing == e {
		s.playing, s.stale = nil, true
	}
}

func (s *session) hearPrimary(b []byte) {
	for !s.primaryOver && !s.over {
		if s.tunnel != nil {
			s.tunnel.hearPrimary(s, b)
			return
		}
		at := s.answering()
		if at == len(s.queue) {
			if len(b) > 0 {
				s.breakOff(at, "primary", broken(s.primary.at, "answer that nobody asked for"))
			}
			return
		}
		e := s.queue[at]
		if e.settled {
			return // what it is about was not understood
		}
		keep := s.keep
		if e.verdict != "" {
			keep = uncounted
		}
		n, err := e.primary.read(&s.primary, e, keep, b, s.now)
		b = b[n:]
		if err != nil {
			s.breakOff(at, "primary", err)
			return
		}
		if !e.primary.whole {
			return
		}
		s.primaryAnswers(at, e)
		s.goOn() // as if the rest came later
	}
}

// primaryAnswers is told that the primary's reply is whole.
func (s *session) primaryAnswers(at int, e *exchange) {
	if s.upgrade == e {
		s.upgrade = nil
	}
	s.spare(e)
	switch {
	case e.request.method == "CONNECT" && e.primary.head.status/100 == 2:
		s.breakOff(at+1, "client", broken(s.client.at, "tunnel by CONNECT"))
	case e.primary.head.status == 101 && strings.HasPrefix(strings.ToLower(e.primary.head.first("upgrade")), "h2c"):
		s.breakOff(at+1, "client", broken(s.client.at, "HTTP/2 by upgrade"))
	case e.primary.head.status == 101:
		s.tunnel = newTunnel(s, e)
	}
}

// answering is the place of the exchange whose reply the primary owes.
func (s *session) answering() int {
	for i, e := range s.queue {
		if !e.primary.whole {
			return i
		}
	}
	return len(s.queue)
}

// asked is the place of the exchange whose request the client is saying.
func (s *session) asked() int {
	for i, e := range s.queue {
		if e == s.asking {
			return i
		}
	}
	return len(s.queue)
}
