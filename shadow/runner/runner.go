package runner

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow"
)

// Options are what a Runner is made of. Driver, Dial, Budget and Sink must be
// there.
type Options struct {
	// Driver makes the driver of a flow.
	Driver func(shadow.Session) shadow.Driver
	// Dial connects a flow's shadow to the candidate. Its connection must be one
	// that can end one direction (CloseWrite), where the protocol wants that.
	Dial func(ctx context.Context, of Flow) (net.Conn, error)
	// Control connects to who is asked a second time: the primary, or another
	// backend in its place. Nil is nobody, and nothing is learnt.
	Control func(ctx context.Context, of Flow) (net.Conn, error)
	// Secure makes a TLS handshake on a connection to the candidate, or to the control, as
	// asked says, and returns the connection to speak through, with what became of it; the
	// error is why it has failed, and then the connection stays the caller's to close. Nil is
	// nobody who can: each fails.
	Secure func(ctx context.Context, conn net.Conn, asked shadow.Handshake, control bool) (net.Conn, shadow.Handshake, error)
	// Learns says whether a flow is to be played to the control as well. Nil is
	// never. It is called from many goroutines.
	Learns func() bool
	// Again says in such a flow whether one more exchange of an endpoint is to be
	// asked, see [shadow.Session]. It is called from many goroutines; nil is always.
	Again func(endpoint string) bool
	Sink  Sink
	// Budget is the process's, FlowBudget the most that one flow may hold, in
	// bytes; Keep is what a driver may keep of a unit or reply.
	Budget     *Budget
	FlowBudget int64
	Keep       int
	// Flows is how many shadows may run at once; 0 is no limit but the budget's.
	Flows int64
	// Patience is how long the candidate may owe a reply, or take to be connected.
	Patience time.Duration
	// Totals are counted into; nil are the runner's own. Runners that follow one
	// another may share them.
	Totals *Totals
	// Ended is told when the shadow of a flow has ended and the Sink has been told all
	// of it. It is called from many goroutines; nil is nobody.
	Ended func()
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	Log *slog.Logger // nil: nothing is logged
}

// A Sink is told of exchanges, from many goroutines; control says that the second
// reply is the control's. It must not keep the caller for long.
type Sink interface {
	Exchanged(exchanges []shadow.Exchange, control bool)
}

// Flow is a flow of the primary that is to be shadowed.
type Flow struct {
	Client, Service, Primary netip.AddrPort
	// TLS is the handshake with the primary that all of the flow is inside of; nil: it
	// begins in clear.
	TLS *shadow.Handshake
	// Opaque says why nothing of the flow can be seen, and so nothing is played; it is
	// counted.
	Opaque string
}

// A Runner plays the sampled flows of one split to its candidate. It may be used
// from many goroutines.
type Runner struct {
	options Options
	ctx     context.Context
	stop    context.CancelFunc
	gate    gate
	breaker atomic.Pointer[Breaker]
	// connections are the goroutines of flows besides the flow's own.
	connections sync.WaitGroup
	totals      *Totals
}

// Totals are the numbers of runners that only grow. The zero value is ready, and
// they may be counted and read from many goroutines.
type Totals struct{ full, broken, stopped, late, lost, panicked atomic.Uint64 }

// Declined are the flows that were not played.
func (t *Totals) Declined() Declined {
	return Declined{Full: t.full.Load(), Broken: t.broken.Load(), Stopped: t.stopped.Load(), Late: t.late.Load(), Lost: t.lost.Load()}
}

// Decline counts flows that somebody else has not played.
func (t *Totals) Decline(d Declined) {
	t.full.Add(d.Full)
	t.broken.Add(d.Broken)
	t.stopped.Add(d.Stopped)
	t.late.Add(d.Late)
	t.lost.Add(d.Lost)
}

// Panicked is how many shadows a panic has ended.
func (t *Totals) Panicked() uint64 { return t.panicked.Load() }

// New returns a Runner; Close it.
func New(o Options) *Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Totals == nil {
		o.Totals = &Totals{}
	}
	if o.Secure == nil {
		o.Secure = secureNothing
	}
	if o.Ended == nil {
		o.Ended = func() {}
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Runner{options: o, ctx: ctx, stop: stop, totals: o.Totals, gate: gate{most: o.Flows, empty: make(chan struct{})}}
	r.breaker.Store(&Breaker{})
	return r
}

func secureNothing(_ context.Context, _ net.Conn, asked shadow.Handshake, _ bool) (net.Conn, shadow.Handshake, error) {
	err := errors.New("nobody makes TLS handshakes here")
	asked.Failed = err.Error()
	return nil, asked, err
}

// Counts are a runner's numbers. Open is of now, the others only grow.
type Counts struct {
	Open     int64    // shadows that run
	Declined Declined // flows that were not played
	Panicked uint64   // shadows that ended by a panic of their driver
	Breaker  string   // why the breaker is open; "" when it is not
	// Rests is for how long yet an open breaker lets no flow through, unless a shadow
	// that runs is answered before.
	Rests time.Duration
}

// Declined are flows that were not played, by why: too many at once, the breaker
// was open, the runner was stopped; or their process was late, or was lost.
type Declined struct{ Full, Broken, Stopped, Late, Lost uint64 }

// Plus are those of both.
func (d Declined) Plus(o Declined) Declined {
	return Declined{d.Full + o.Full, d.Broken + o.Broken, d.Stopped + o.Stopped, d.Late + o.Late, d.Lost + o.Lost}
}

// Less are those that another count has not; what it has more of is none.
func (d Declined) Less(o Declined) Declined {
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	return Declined{less(d.Full, o.Full), less(d.Broken, o.Broken), less(d.Stopped, o.Stopped), less(d.Late, o.Late), less(d.Lost, o.Lost)}
}

// Counts returns the numbers as they are now.
func (r *Runner) Counts() Counts {
	c := Counts{Open: r.gate.open(), Declined: r.totals.Declined(), Panicked: r.totals.Panicked()}
	b := r.breaker.Load()
	if reason, open := b.Open(); open {
		c.Breaker, c.Rests = reason, b.Rests(r.options.Now())
	}
	return c
}

// Stop has all shadows end, whose open exchanges are told as dropped, and does not
// wait for that. Flows that come later are declined.
func (r *Runner) Stop() {
	r.gate.close()
	r.stop()
}

// Close is Stop, and returns when no shadow runs any more.
func (r *Runner) Close() {
	r.Stop()
	<-r.gate.empty
	r.connections.Wait()
}

// Open begins the shadow of a flow that the primary has answered. Nil says that
// there is none. It waits for nothing, and takes no lock.
func (r *Runner) Open(of Flow) *Tap {
	if of.Opaque != "" {
		return r.pass(of)
	}
	switch r.gate.enter() {
	case gateShut:
		r.totals.stopped.Add(1)
		return nil
	case gateFull:
		r.totals.full.Add(1)
		return nil
	case gateOpen:
	}
	f := newFlow(r, of)
	if !r.options.Budget.admit(f, f.takes()) {
		f.drop(overBudget)
	} else if !r.ask() { // behind: the flow that tries a candidate must have room
		r.options.Budget.settle(f)
		r.gate.leave()
		r.totals.broken.Add(1)
		return nil
	}
	t := &Tap{flow: f}
	if of.TLS != nil {
		t.Secure(*of.TLS, of.TLS.Ended)
	}
	go f.run()
	return t
}

// pass counts a flow of which nothing can be seen: it is none that there may be too many
// of, and tells nothing of the candidate. Its Tap takes nothing.
func (r *Runner) pass(of Flow) *Tap {
	if r.gate.enterBelow(0) == gateShut {
		r.totals.stopped.Add(1)
		return nil
	}
	f := newFlow(r, of)
	f.over.Store(true)
	go f.pass()
	return &Tap{flow: f}
}

// ask asks the breaker whether a flow may be played.
func (r *Runner) ask() bool {
	may := true
	r.note(func(b Breaker) Breaker {
		b, may = b.Ask(r.options.Now(), 2*r.options.Patience)
		return b
	})
	return may
}

// note changes the breaker, and returns it as it was and is. Many may at once: who
// comes second begins again.
func (r *Runner) note(change func(Breaker) Breaker) (was, is Breaker) {
	for {
		old := r.breaker.Load()
		now := change(*old)
		if now == *old || r.breaker.CompareAndSwap(old, &now) {
			return *old, now
		}
	}
}

// judged tells the breaker how a shadow fared at the candidate.
func (r *Runner) judged(failure string) {
	before, after := r.note(func(b Breaker) Breaker {
		if failure == "" {
			return b.Served()
		}
		return b.Failed(r.options.Now(), failure)
	})
	_, was := before.Open()
	_, is := after.Open()
	switch {
	case is && !was:
		r.options.Log.Warn("candidate fails its shadows: flows are not played to it, but one now and then", "reason", failure)
	case was && !is:
		r.options.Log.Info("candidate answers shadows again")
	}
}

// Tap takes what is said in one flow. Its methods are called from one thread at a
// time, and none waits.
type Tap struct {
	flow *flow
	fin  [2]bool // of client and primary
}

// Take takes a copy of bytes that the client or the primary has sent, or of its
// FIN. False says that the shadow of the flow is over: it is the last call then.
func (t *Tap) Take(from shadow.Party, bytes []byte, fin bool, at time.Time) bool {
	e := shadow.Event{From: from, Bytes: bytes, At: at}
	if !t.charge(e) {
		return false
	}
	e.Bytes = append([]byte(nil), bytes...)
	if fin {
		e.End, t.fin[from] = shadow.Closed, true
	}
	t.put(e)
	return true
}

// charge has the flow hold what an event takes, or ends its shadow where there is no room.
func (t *Tap) charge(e shadow.Event) bool {
	f := t.flow
	if f.over.Load() {
		return false
	}
	n := costs(e)
	if f.held()+n > f.runner.options.FlowBudget {
		f.drop(overFlowBudget)
		return false
	}
	if !f.runner.options.Budget.charge(f, n) {
		f.drop(overBudget)
		return false
	}
	return true
}

// Secure says that what follows is said inside TLS, and of which handshake of the primary.
// False says what it says of Take.
func (t *Tap) Secure(h shadow.Handshake, at time.Time) bool {
	return t.note(shadow.Event{From: shadow.Primary, TLS: &h, At: at})
}

// Opaque says that nothing of what follows can be seen, and why. False says what it says
// of Take.
func (t *Tap) Opaque(reason string, at time.Time) bool {
	return t.note(shadow.Event{From: shadow.Primary, Opaque: reason, At: at})
}

// note queues an event without bytes.
func (t *Tap) note(e shadow.Event) bool {
	if !t.charge(e) {
		return false
	}
	t.put(e)
	return true
}

// Drop ends the shadow of a flow of which not all could be told. It is the last call.
func (t *Tap) Drop() { t.flow.drop(untold) }

// put queues an event, whose room is charged.
func (t *Tap) put(e shadow.Event) {
	f := t.flow
	f.queue.put(e)
	if f.gone.Load() { // since it was charged
		f.runner.options.Budget.settle(f)
	}
}

// End says that the flow is over: whole, or cut off by the client or on the way.
func (t *Tap) End(how shadow.End, at time.Time) { t.end(how, at, shadow.Client, shadow.Primary) }

// EndByPrimary says that the primary has ended the flow, as by a reset: that much is
// known of how it ends, and drivers hear it before the client's end.
func (t *Tap) EndByPrimary(how shadow.End, at time.Time) {
	t.end(how, at, shadow.Primary, shadow.Client)
}

func (t *Tap) end(how shadow.End, at time.Time, parties ...shadow.Party) {
	for _, from := range parties {
		if !t.fin[from] && !t.flow.over.Load() && t.flow.runner.options.Budget.charge(t.flow, overhead) {
			t.put(shadow.Event{From: from, End: how, At: at})
		}
	}
	t.flow.ended.Store(true)
	t.flow.queue.ring()
}
