package terminator

import (
	"errors"
	"sync"

	"github.com/splitd/splitd/shadow"
)

// told tells a flow's tap, one call at a time and in the order in which bytes were passed on:
// what answers a chunk was read after that chunk has begun to be written, so chunks are
// told in the order in which they began, when one of them is delivered.
type told struct {
	t      *Terminator
	teller Teller

	mu     sync.Mutex
	asked  bool
	tap    Tap
	unseen bool // nothing but the end is told
	begun  uint64
	flying [2]chunk // of client and primary
}

// A chunk is on its way to its receiver. The zero one is none.
type chunk struct {
	bytes []byte
	order uint64
}

// open asks for the tap.
func (s *told) open(h *shadow.Handshake, opaque string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked {
		return
	}
	s.asked, s.unseen = true, opaque != ""
	defer s.recover()
	s.tap = s.teller.Open(h, Said(opaque))
}

// isOpen says whether the tap was asked for.
func (s *told) isOpen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// secure tells of a handshake behind STARTTLS.
func (s *told) secure(h shadow.Handshake) {
	s.tell(func() bool { return s.tap.Secure(h, s.t.now()) })
}

// opaque tells that nothing more is seen; false: that was told.
func (s *told) opaque(reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unseen {
		return false
	}
	s.guard(func() bool { return s.tap.Opaque(Said(reason), s.t.now()) })
	s.unseen = true
	return true
}

// began notes a chunk that is going to be written.
func (s *told) began(from shadow.Party, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	s.flying[from] = chunk{bytes: b, order: s.begun}
}

// delivered tells a chunk that was, behind those that began before it.
func (s *told) delivered(from shadow.Party) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine, other := s.flying[from], s.flying[1-from]
	if mine.bytes == nil {
		return // it was told when it was answered
	}
	if other.bytes != nil && other.order < mine.order {
		s.take(1 - from)
	}
	s.take(from)
}

// lost forgets a chunk that could not be delivered.
func (s *told) lost(from shadow.Party) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying[from] = chunk{}
}

func (s *told) take(from shadow.Party) {
	b := s.flying[from].bytes
	s.flying[from] = chunk{}
	if !s.unseen {
		s.guard(func() bool { return s.tap.Take(from, b, false, s.t.now()) })
	}
}

// fin tells that a side has ended.
func (s *told) fin(from shadow.Party) {
	s.tell(func() bool { return s.tap.Take(from, nil, true, s.t.now()) })
}

// end tells how the flow has ended, for who is told of it.
func (s *told) end(err error) {
	s.open(nil, "") // of who was silent
	s.mu.Lock()
	defer s.mu.Unlock()
	s.guard(func() bool {
		var broken *Broken
		switch {
		case err == nil, s.t.unseen != nil && errors.Is(err, s.t.unseen): // it goes on unseen
			s.tap.End(shadow.Closed, s.t.now())
		case errors.As(err, &broken) && broken.By == shadow.Primary:
			s.tap.EndByPrimary(shadow.Reset, s.t.now())
		default:
			s.tap.End(shadow.Reset, s.t.now())
		}
		return false
	})
}

func (s *told) tell(what func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.unseen {
		s.guard(what)
	}
}

// guard calls the tap, if there is one, and forgets one that wants no more or panics.
func (s *told) guard(call func() bool) {
	if s.tap == nil {
		return
	}
	defer s.recover()
	if !call() {
		s.tap = nil
	}
}

func (s *told) recover() {
	if p := recover(); p != nil {
		tap := s.tap
		s.tap = nil
		s.t.counts.panicked.Add(1)
		s.t.log.Error("tap of a flow has panicked: nothing more is told of the flow", "split", s.t.split, "panic", p)
		s.t.abandon(tap)
	}
}

// abandon ends a tap that has panicked, which may hold what others need.
func (t *Terminator) abandon(tap Tap) {
	if tap == nil {
		return
	}
	defer func() { _ = recover() }()
	tap.End(shadow.Reset, t.now())
}
