package shadower

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/rpc"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

// How long answers are waited for.
const (
	numbersPatience = 300 * time.Millisecond // the last ones are good enough
	answerPatience  = 8 * time.Second
	// haltPatience is how long shadows may take to hear that they are over: what is
	// relayed reaches them no more from the first moment on, and a process that gets a
	// processor at last hears it first.
	haltPatience = 30 * time.Second
)

// Options are what a Play is made of. Split must be there.
type Options struct {
	// Split is a state, whose mode is resolved and whose Shadow.To is a candidate.
	Split traffic.Split
	// After is the Play that this one follows, and Kept what Bytes of an earlier daemon
	// has returned, as in package play.
	After *Play
	Kept  []byte
	// Mark is that of packets to servers; 0 is none.
	Mark uint32
	// Observe is told of every compared exchange whose times are known; nil is nobody.
	// It is called from one goroutine at a time.
	Observe func(play.Timed)
}

// A Play is the shadow of one split, played elsewhere. Its methods may be called from
// many goroutines.
type Play struct {
	process *Process
	id      uint64
	options Options
	run     atomic.Uint64 // odd: flows are played. It only grows
	missed  *missed       // by all plays that follow one another

	ended   bool            // under process.mu, as what follows
	kept    []byte          // what was counted, for a process that takes over
	counted runner.Declined // what of those that were missed is in there
	resets  int

	numbers inquiry[Answer]
	edition inquiry[uint64]
	report  inquiry[[]byte]
	bytes   inquiry[Counted]

	answered sync.Mutex // guards what follows
	last     play.Numbers
}

// missed are flows that got no further than the daemon.
type missed struct{ late, lost atomic.Uint64 }

func (m *missed) declined() runner.Declined {
	return runner.Declined{Late: m.late.Load(), Lost: m.lost.Load()}
}

// Split is what the Play was made for.
func (p *Play) Split() traffic.Split { return p.options.Split }

// Follows says whether a split is still to be played as this Play does.
func (p *Play) Follows(s traffic.Split) bool { return play.Alike(p.options.Split, s) }

// Begin has flows played from now on. Begun already, nothing happens.
func (p *Play) Begin() {
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	if !p.ended && p.run.Load()%2 == 0 {
		p.run.Add(1)
		p.process.order(p.tellRun)
	}
}

// Halt ends all shadows, and has no flow played any more. It does not wait until the
// last has ended: a process that does not hear it in time is ended. What was counted
// stays.
func (p *Play) Halt() {
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	p.halt()
}

// halt is Halt under process.mu.
func (p *Play) halt() {
	if p.run.Load()%2 == 0 {
		return
	}
	p.run.Add(1)
	late := p.process.watch("it does not end its shadows")
	p.process.order(func(c *rpc.Client) error {
		err := p.tellRun(c)
		if _, refused := errors.AsType[rpc.ServerError](err); err == nil || refused { // it was heard
			late.Stop()
		}
		return err
	})
}

// tellMake has the process make the play, which follows another one or goes on with
// what was kept; process.mu is held.
func (p *Play) tellMake(after uint64, kept []byte) order {
	making := Making{ID: p.id, Split: p.options.Split, After: after, Kept: kept, Mark: p.options.Mark, Declined: p.counted}
	return func(c *rpc.Client) error { return c.Call(methodMake, making, &struct{}{}) }
}

// tellRun tells the process whether flows are played now.
func (p *Play) tellRun(c *rpc.Client) error {
	return c.Call(methodRun, Running{p.id, p.run.Load()}, &struct{}{})
}

// End is Halt for good, and waits until the last shadow has ended. What was counted is
// there until Close.
func (p *Play) End() {
	p.process.mu.Lock()
	p.halt()
	p.ended = true
	p.process.mu.Unlock()
	ended := make(chan struct{})
	if p.process.tell(func(c *rpc.Client) error {
		go func() {
			defer close(ended)
			_ = c.Call(methodEnd, p.id, &struct{}{}) // where it is gone, so are its shadows
		}()
		return nil
	}) {
		<-ended
	}
}

// Close is End, and forgets what was counted, unless another Play follows.
func (p *Play) Close() {
	p.End()
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	if p.process.plays[p.id] == nil {
		return
	}
	delete(p.process.plays, p.id)
	p.process.order(func(c *rpc.Client) error { return c.Call(methodClose, p.id, &struct{}{}) })
}

// Open begins the shadow of a flow that the primary has answered; nil says that there
// is none. It waits for nothing, and takes no lock. The worker is the relay's thread.
func (p *Play) Open(of runner.Flow, worker int) *Tap {
	run := p.run.Load()
	if run%2 == 0 {
		return nil // its sample is 0, or becomes so at this moment
	}
	outlets := p.process.outlets.Load()
	if outlets == nil {
		p.missed.lost.Add(1)
		return nil
	}
	o := (*outlets)[worker%len(*outlets)]
	slot, turn, ok := o.open(opened(p.id, run, of))
	switch {
	case ok:
		return &Tap{outlet: o, play: p, run: run, slot: slot, turn: turn}
	case o.dead.Load():
		p.missed.lost.Add(1)
	default:
		p.missed.late.Add(1)
	}
	return nil
}

// Numbers returns what is known now, or where the process is too busy to say that in
// time, what was known a moment ago.
func (p *Play) Numbers() play.Numbers {
	if !p.numbers.isLate() {
		p.update()
	}
	p.answered.Lock()
	defer p.answered.Unlock()
	return p.last
}

// update asks for the numbers, and tells what was missed on this side. What is answered
// late is heard as well.
func (p *Play) update() {
	edition, err := p.process.editions()
	if err != nil {
		return
	}
	_, _ = p.numbers.ask(p.process, numbersPatience, func(c *rpc.Client) (a Answer, err error) {
		if err = c.Call(methodNumbers, Asking{p.id, p.missed.declined()}, &a); err == nil {
			p.hear(a, edition)
		}
		return a, err
	})
}

func (p *Play) hear(a Answer, edition uint64) {
	p.answered.Lock()
	defer p.answered.Unlock()
	p.last = a.Numbers
	p.last.Edition += edition
	p.process.used.Store(a.Used)
	for _, t := range a.Timed {
		p.observe(t)
	}
}

func (p *Play) observe(t play.Timed) {
	if p.options.Observe != nil {
		p.options.Observe(t)
	}
}

// Edition changes whenever what was counted does; where the process does not say, it
// may have.
func (p *Play) Edition() uint64 {
	base, err := p.process.editions()
	if err != nil {
		return 0
	}
	edition, err := p.edition.fetch(p, methodEdition)
	if err != nil {
		return 0
	}
	return base + edition
}

// Report is what is known of how the candidate answers, in the report's JSON. Where the
// process is too busy, or gone, it is what was saved of it last.
func (p *Play) Report() (json.RawMessage, error) {
	text, err := p.report.fetch(p, methodReport)
	if err == nil {
		return text, nil
	}
	p.process.mu.Lock()
	kept := p.kept
	p.process.mu.Unlock()
	if kept == nil {
		return nil, p.failed("report", err)
	}
	saved, broken := play.New(play.Options{Split: p.options.Split, Kept: kept})
	if broken != nil {
		return nil, p.failed("report", errors.Join(err, broken))
	}
	return json.Marshal(saved.Report())
}

// Reset forgets what was counted, and says what that was. A process that is late does
// not do it afterwards.
func (p *Play) Reset() (play.Forgotten, error) {
	resetting := Resetting{p.id, time.Now().Add(answerPatience - time.Second)}
	var one inquiry[play.Forgotten]
	forgotten, err := one.ask(p.process, answerPatience, func(c *rpc.Client) (f play.Forgotten, err error) {
		err = c.Call(methodReset, resetting, &f)
		return f, err
	})
	if err != nil {
		return forgotten, p.failed("reset report of", err)
	}
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	p.resets++ // behind it: what is being kept is from before
	p.kept, p.counted = nil, p.missed.declined()
	return forgotten, nil
}

// Bytes writes what was counted, for Options.Kept of a later daemon, and says of which
// edition it is.
func (p *Play) Bytes() (text []byte, edition uint64, err error) {
	base, err := p.process.editions()
	if err != nil {
		return nil, 0, p.failed("keep report of", err)
	}
	p.process.mu.Lock()
	resets := p.resets
	p.process.mu.Unlock()
	c, err := p.bytes.fetch(p, methodBytes)
	if err != nil {
		return nil, 0, p.failed("keep report of", err)
	}
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	if p.resets == resets {
		p.kept, p.counted = c.Text, c.Declined
	}
	return c.Text, base + c.Edition, nil
}

func (p *Play) failed(what string, err error) error {
	if errors.Is(err, ErrLate) || isGone(err) {
		err = fmt.Errorf("%w: try again", err)
	}
	return fmt.Errorf("%s %q: %w", what, p.options.Split.Name, err)
}
