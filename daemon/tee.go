package daemon

import (
	"sync/atomic"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/terminator"
)

// Tee gives the relay's sampled flows to the plays of their splits. The zero value
// is ready, and plays none. The relay's threads call it, so it waits for nobody: it
// finds the play in a map that never changes once it is there.
type Tee struct {
	plays atomic.Pointer[map[string]teed]
}

// teed is who is told of the sampled flows of one split.
type teed struct {
	play     Play           // nil: it cannot be played
	unplayed *atomic.Uint64 // counts the flows then
	inside   *insider       // nil: nothing is seen inside TLS
}

// Open implements [splitter.Tee].
func (t *Tee) Open(flow splitter.Opened) splitter.Tap {
	plays := t.plays.Load()
	if plays == nil {
		return nil
	}
	to, known := (*plays)[flow.Split]
	switch {
	case !known:
		return nil
	case to.play == nil:
		to.unplayed.Add(1)
		return nil
	}
	of := runner.Flow{Client: flow.Client, Service: flow.Service, Primary: flow.Server}
	if to.inside != nil {
		return to.carried(of, flow)
	}
	tap := to.play.Open(of, flow.Worker)
	if tap == nil {
		return nil
	}
	return shadowTap{tap}
}

// carried has a flow carried, unless it would not be played, or nobody can stand in for its
// service: then the relay goes on with it as with one that is not sampled.
func (t teed) carried(of runner.Flow, flow splitter.Opened) splitter.Tap {
	by := t.inside.made.Load()
	if by == nil {
		t.inside.unready.Add(1)
		unseen(t.play, of, terminator.Said(terminator.Unready), flow.Worker, flow.At)
		return nil
	}
	entered := t.inside.enter()
	if !t.play.Declines(!entered) {
		return carrier{t.inside, by, t.play, of}
	}
	if entered {
		t.inside.leave()
	}
	return nil
}

// shadowTap gives the shadow of one flow what the relay has passed on.
type shadowTap struct{ Tap }

// Take implements [splitter.Tap].
func (t shadowTap) Take(c splitter.Chunk) bool {
	from := shadow.Primary
	if c.FromClient {
		from = shadow.Client
	}
	return t.Tap.Take(from, c.Bytes, c.FIN, c.At)
}

// End implements [splitter.Tap]. A flow that did not end by two FINs may lack bytes,
// whoever ended it.
func (t shadowTap) End(e splitter.Ended) {
	switch {
	case e.End == "closed":
		t.Tap.End(shadow.Closed, e.At)
	case e.End == "reset" && e.By == "backend":
		t.EndByPrimary(shadow.Reset, e.At)
	default:
		t.Tap.End(shadow.Reset, e.At)
	}
}
