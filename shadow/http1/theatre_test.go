package http1

import (
	"bytes"
	"slices"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A scene is one exchange of a test: what each party says in it.
type scene struct {
	request, primary, candidate []byte
	primaryEnds, candidateEnds  shadow.End
	control                     []byte // what the primary says when it is asked again
}

// A theatre plays scenes to a driver, with a candidate that answers what it is sent.
type theatre struct {
	driver    shadow.Driver
	keep      int
	cut       func([]byte) [][]byte // how what is said is cut into events
	pipelined bool
	clock     time.Time

	scenes  []scene
	next    int    // the first scene that the candidate has not answered
	inbox   []byte // of the candidate
	sent    [][]byte
	redials int
	done    bool
	told    []shadow.Exchange
	held    int // most
}

func newTheatre(o Options, keep int, scenes ...scene) *theatre {
	return &theatre{
		driver: New(o)(shadow.Session{Keep: keep}), keep: keep, scenes: scenes,
		clock: time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC), sent: [][]byte{nil},
	}
}

// play has all scenes played and returns the exchanges.
func (s *theatre) play() []shadow.Exchange {
	if s.pipelined {
		for _, c := range s.scenes {
			s.say(shadow.Client, c.request, shadow.Open)
		}
	}
	for _, c := range s.scenes {
		if !s.pipelined {
			s.say(shadow.Client, c.request, shadow.Open)
		}
		s.say(shadow.Primary, c.primary, c.primaryEnds)
		s.answer()
	}
	s.say(shadow.Client, nil, shadow.Closed)
	s.answer()
	s.say(shadow.Primary, nil, shadow.Closed)
	s.told = append(s.told, s.driver.Stop(shadow.Dropped, "end of the test")...)
	return s.told
}

// say tells the driver, in pieces.
func (s *theatre) say(from shadow.Party, b []byte, end shadow.End) {
	pieces := [][]byte{b}
	if s.cut != nil && len(b) > 0 {
		pieces = s.cut(b)
	}
	for i, piece := range pieces {
		e := shadow.Event{From: from, Bytes: bytes.Clone(piece), At: s.clock}
		if i == len(pieces)-1 {
			e.End = end
		}
		if len(piece) == 0 && e.End == shadow.Open || s.done {
			continue
		}
		before := s.redials
		s.hear(e)
		if from == shadow.Candidate && s.redials > before {
			return // the rest would be of the old connection
		}
	}
}

func (s *theatre) hear(e shadow.Event) {
	moves := s.driver.Hear(e)
	for i := range e.Bytes {
		e.Bytes[i] = '#' // they were lent
	}
	if moves.Redial {
		s.redials++
		s.inbox = nil
		s.sent = append(s.sent, nil)
	}
	s.inbox = append(s.inbox, moves.Send...)
	s.sent[len(s.sent)-1] = append(s.sent[len(s.sent)-1], moves.Send...)
	s.told = append(s.told, moves.Exchanges...)
	s.done = s.done || moves.Done
	s.held = max(s.held, s.driver.Held())
}

// answer has the candidate answer what it has been sent.
func (s *theatre) answer() {
	for {
		at := slices.IndexFunc(s.scenes[s.next:], func(c scene) bool { return bytes.HasPrefix(s.inbox, c.request) })
		if at < 0 || len(s.inbox) == 0 {
			return
		}
		c := s.scenes[s.next+at]
		s.next += at + 1
		s.inbox = s.inbox[len(c.request):]
		told, redials := len(s.told), s.redials
		s.say(shadow.Candidate, c.candidate, c.candidateEnds)
		if s.redials > redials && len(s.told) == told && len(c.candidate) == 0 {
			s.next-- // it is asked once more
		}
	}
}

// crlf writes text with the ends of lines that HTTP has.
func crlf(text string) []byte {
	return bytes.ReplaceAll([]byte(text), []byte("\n"), []byte("\r\n"))
}

// both is a scene in which both servers say the same.
func both(request, reply string) scene {
	return scene{request: crlf(request), primary: crlf(reply), candidate: crlf(reply)}
}

// verdictOf is an exchange's, after comparing.
func verdictOf(x shadow.Exchange) shadow.Verdict {
	if x.Verdict != "" {
		return x.Verdict
	}
	differences := shadow.Differences(x, Noise())
	switch {
	case len(differences) == 0:
		return shadow.Match
	case differences[0].Excuse == "":
		return shadow.Mismatch
	default:
		return shadow.Noise
	}
}

func verdictsOf(all []shadow.Exchange) []shadow.Verdict {
	var verdicts []shadow.Verdict
	for _, x := range all {
		verdicts = append(verdicts, verdictOf(x))
	}
	return verdicts
}
