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
	after   uint64               // the id of the play that it follows; 0 is none
	run     atomic.Uint64        // odd: flows are played. It only grows
	rest    atomic.Pointer[rest] // nil: none
	account *account             // of all plays that follow one another
	ended   bool                 // under process.mu

	numbers inquiry[Answer]
	edition inquiry[uint64]
	report  inquiry[[]byte]
	bytes   inquiry[Counted]

	answered sync.Mutex // guards what follows
	shown    shown
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

// tellMake has the process make the play, which follows another one, or where that is not
// there goes on with what was kept; process.mu is held.
func (p *Play) tellMake(kept []byte) order {
	making := Making{ID: p.id, Line: p.account.id, Split: withoutKeys(p.options.Split), After: p.after, Kept: kept, Mark: p.options.Mark, Declined: p.account.counted}
	return func(c *rpc.Client) error { return c.Call(methodMake, making, &struct{}{}) }
}

// withoutKeys is a split as the process is told of it, to which candidates and clients speak:
// that there are certificates, and not where they and their keys are.
func withoutKeys(s traffic.Split) traffic.Split {
	if n := len(s.Shadow.TLS.Certificates); n > 0 {
		s.Shadow.TLS.Certificates = make([]traffic.Certificate, n)
	}
	return s
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

// Anybody is who is none of the relay's threads.
const Anybody = -1

// Open begins the shadow of a flow that the primary has answered; nil says that there
// is none, which is counted. It waits for nothing, and takes no lock. The worker is the
// relay's thread. For Anybody it may be called from any goroutine, and waits, as do the
// methods of the Tap, until others of these have copied what they have to tell.
func (p *Play) Open(of runner.Flow, worker int) *Tap {
	run := p.run.Load()
	outlets := p.outlets(run)
	if outlets == nil {
		return nil
	}
	o := outletOf(outlets, worker)
	slot, turn, said := o.open(opened(part{p.account.id, p.id, run}, of), &p.account.opened)
	switch said {
	case welcomed:
		return &Tap{outlet: o, play: p, run: run, slot: slot, turn: turn}
	case noRoom:
		p.account.late.Add(1)
	case noSlot:
		p.account.full.Add(1)
	case noReader:
		p.account.lost.Add(1)
	}
	return nil
}

// outletOf is that of a thread, or of Anybody.
func outletOf(all []*outlet, worker int) *outlet {
	threads := len(all) - 1
	if worker == Anybody {
		return all[threads]
	}
	return all[worker%threads]
}

// Declines says whether no flow is played that begins now, and counts one then: who would
// have much to do for it need not begin. It waits for nothing, and takes no lock.
func (p *Play) Declines() bool { return p.outlets(p.run.Load()) == nil }

// outlets are those that flows of a run are told to; nil where none is played, which is
// counted.
func (p *Play) outlets(run uint64) []*outlet {
	outlets := p.process.outlets.Load()
	switch {
	case run%2 == 0: // its sample was above 0 when it was drawn
		p.account.stopped.Add(1)
	case outlets == nil:
		p.account.lost.Add(1)
	case p.rest.Load().holds(run):
		p.account.broken.Add(1)
	default:
		return *outlets
	}
	return nil
}

// Edition changes whenever what was counted does, flows too that got no further than
// here; where the process does not say, it may have.
func (p *Play) Edition() uint64 {
	_ = p.update() // which tells of those; what fails here fails below
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
	_ = p.update() // so that it has the flows that got no further than here
	text, err := p.report.fetch(p, methodReport)
	if err == nil {
		return text, nil
	}
	p.process.mu.Lock()
	kept := p.account.kept
	p.process.mu.Unlock()
	if kept == nil {
		return nil, p.failed("report", err)
	}
	if isGone(err) {
		err = ErrGone
	}
	saved, broken := play.New(play.Options{Split: p.options.Split, Kept: kept, Away: err.Error()})
	if broken != nil {
		return nil, p.failed("report", errors.Join(err, broken))
	}
	return json.Marshal(saved.Report())
}

// Reset forgets what was counted, and says what that was. A process that is late does
// not do it afterwards.
func (p *Play) Reset() (play.Forgotten, error) {
	life, err := p.process.editions()
	if err != nil {
		return play.Forgotten{}, p.failed("reset report of", err)
	}
	resetting := Resetting{p.id, time.Now().Add(answerPatience - time.Second)}
	var one inquiry[Forgotten]
	f, err := one.ask(p.process, answerPatience, func(c *rpc.Client) (f Forgotten, err error) {
		err = c.Call(methodReset, resetting, &f)
		return f, err
	})
	if err != nil {
		return play.Forgotten{}, p.failed("reset report of", err)
	}
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	if !p.process.isIn(life) { // another has taken over with what was to be forgotten
		return play.Forgotten{}, p.failed("reset report of", ErrGone)
	}
	p.account.resets++ // behind it: what is being kept is from before
	p.account.keep(nil, f.Declined, f.Settled)
	p.answered.Lock()
	defer p.answered.Unlock()
	p.shown.forget(life, f.Resets)
	return f.Forgotten, nil
}

// Bytes writes what was counted, for Options.Kept of a later daemon, and says of which
// edition it is.
func (p *Play) Bytes() (text []byte, edition uint64, err error) {
	base, err := p.process.editions()
	if err != nil {
		return nil, 0, p.failed("keep report of", err)
	}
	p.process.mu.Lock()
	resets := p.account.resets
	p.process.mu.Unlock()
	c, err := p.bytes.fetch(p, methodBytes)
	if err != nil {
		return nil, 0, p.failed("keep report of", err)
	}
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	if !p.process.isIn(base) { // what is lost with a process was counted
		return nil, 0, p.failed("keep report of", ErrGone)
	}
	if p.account.resets == resets {
		p.account.keep(c.Text, c.Declined, c.Settled)
	}
	return c.Text, base + c.Edition, nil
}

func (p *Play) failed(what string, err error) error {
	if errors.Is(err, ErrLate) || isGone(err) {
		err = fmt.Errorf("%w: try again", err)
	}
	return fmt.Errorf("%s %q: %w", what, p.options.Split.Name, err)
}
