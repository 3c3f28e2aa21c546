package terminator

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A flow is carried.
type flow struct {
	t               *Terminator
	of              Flow
	ctx             context.Context
	client, primary *side
	told            told
	aborted         atomic.Bool
	cut             atomic.Bool // a side has ended inside TLS by a FIN alone
	agreed          bool        // to go on inside TLS, in clear
}

// place is where the primary's TLS is found.
func (f *flow) place() place { return place{primary: f.of.Primary, agreed: f.agreed} }

// abort ends whatever waits for either side, for good.
func (f *flow) abort() {
	f.aborted.Store(true)
	_ = f.client.SetDeadline(past)
	_ = f.primary.SetDeadline(past)
}

// rearm has a side be read again that was interrupted, for as long as it is heard.
func (f *flow) rearm(s *side) {
	var until time.Time
	if last := s.last.Load(); last != 0 {
		until = time.Unix(0, last)
	}
	_ = s.SetReadDeadline(until)
	if f.aborted.Load() {
		_ = s.SetDeadline(past)
	}
}

// carry is Carry but for the end.
func (f *flow) carry() error {
	h, muddled := f.beginning()
	switch {
	case h != nil:
		return f.answer(h)
	case muddled:
		return f.passThrough(noHello)
	}
	f.t.counts.clear.Add(1)
	f.told.open(nil, "")
	if f.t.protocol.dialogue == nil {
		return f.both(f.client, f.primary)
	}
	var err error
	if f.agreed, err = f.converse(f.t.protocol.dialogue()); !f.agreed {
		return err
	}
	if h, _ = f.beginning(); h == nil {
		return f.passThrough(noHello)
	}
	return f.answer(h)
}

// passThrough passes on what comes, or has whoever wants the flow back do it, and tells nothing
// of it.
func (f *flow) passThrough(reason string) error {
	f.t.counts.passedThrough(reason)
	f.unseen(reason)
	if f.t.unseen == nil {
		return f.both(f.client, f.primary)
	}
	if err := f.client.giveTo(f.primary); err != nil {
		return err
	}
	if err := f.primary.giveTo(f.client); err != nil {
		return err
	}
	return f.t.unseen
}

// giveTo passes on what was read ahead.
func (s *side) giveTo(other *side) error {
	_, err := other.Write(s.before)
	if err != nil {
		return &Broken{By: other.who, Err: err}
	}
	s.before = nil
	return nil
}

// unseen tells that nothing is seen, from the beginning or from here on.
func (f *flow) unseen(reason string) {
	f.told.open(nil, reason)
	f.told.opaque(reason)
}

// opens tells of the handshake with the primary.
func (f *flow) opens(h shadow.Handshake) {
	if !f.told.isOpen() {
		f.told.open(&h, "")
		return
	}
	f.told.secure(h)
}
