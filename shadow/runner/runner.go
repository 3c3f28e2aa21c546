package runner

import (
	"context"
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
	// Learns says whether a flow is to be played to the control as well. Nil is
	// never. It is called from many goroutines.
	Learns func() bool
	Sink   Sink
	// Budget is the process's, FlowBudget the most that one flow may hold, in
	// bytes; Keep is what a driver may keep of a unit or reply.
	Budget     *Budget
	FlowBudget int64
	Keep       int
	// Flows is how many shadows may run at once; 0 is no limit.
	Flows int64
	// Patience is how long the candidate may owe a reply, or take to be connected.
	Patience time.Duration
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
}

// A Runner plays the sampled flows of one split to its candidate. It may be used
// from many goroutines.
type Runner struct {
	options Options
	ctx     context.Context
	stop    context.CancelFunc
	flows   sync.WaitGroup
	open    atomic.Int64
	declined,
	panicked atomic.Uint64

	mu      sync.Mutex
	breaker Breaker
	closed  bool
}

// New returns a Runner; Close it.
func New(o Options) *Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Runner{options: o, ctx: ctx, stop: stop}
}

// Counts are a runner's numbers. Open is of now, the others only grow.
type Counts struct {
	Open     int64  // shadows that run
	Declined uint64 // flows that were not played: too many at once, the breaker, the end
	Panicked uint64 // shadows that ended by a panic of their driver
	Breaker  string // why the breaker is open; "" when it is not
}

// Counts returns the numbers as they are now.
func (r *Runner) Counts() Counts {
	c := Counts{Open: r.open.Load(), Declined: r.declined.Load(), Panicked: r.panicked.Load()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if reason, open := r.breaker.Open(); open {
		c.Breaker = reason
	}
	return c
}

// Close ends all shadows, whose open exchanges are told as dropped, and returns
// when none runs any more. Flows that come later are declined.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.flows.Wait()
}

// Open begins the shadow of a flow that the primary has answered. Nil says that
// there is none. It does not wait for anything but a goroutine to be made.
func (r *Runner) Open(of Flow) *Tap {
	if !r.admits() {
		r.declined.Add(1)
		return nil
	}
	f := newFlow(r, of)
	go f.run()
	return &Tap{flow: f}
}

// admits counts one more shadow, unless there may be none.
func (r *Runner) admits() bool {
	if r.options.Flows > 0 && r.open.Load() >= r.options.Flows {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	var may bool
	if r.breaker, may = r.breaker.Ask(r.options.Now(), 2*r.options.Patience); !may {
		return false
	}
	r.open.Add(1)
	r.flows.Add(1)
	return true
}

// judged tells the breaker how a shadow fared at the candidate.
func (r *Runner) judged(failure string) {
	r.mu.Lock()
	_, was := r.breaker.Open()
	if failure == "" {
		r.breaker = r.breaker.Served()
	} else {
		r.breaker = r.breaker.Failed(r.options.Now(), failure)
	}
	_, is := r.breaker.Open()
	r.mu.Unlock()
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
	f := t.flow
	if f.over.Load() {
		return false
	}
	n := int64(len(bytes)) + overhead
	if f.charged.Load()+n > f.runner.options.FlowBudget {
		f.drop(overFlowBudget)
		return false
	}
	if !f.runner.options.Budget.charge(f, n) {
		f.drop(overBudget)
		return false
	}
	e := shadow.Event{From: from, Bytes: append([]byte(nil), bytes...), At: at}
	if fin {
		e.End, t.fin[from] = shadow.Closed, true
	}
	f.queue.put(e)
	return true
}

// End says that the flow is over: whole, or by a reset.
func (t *Tap) End(how shadow.End, at time.Time) {
	for _, from := range []shadow.Party{shadow.Client, shadow.Primary} {
		if !t.fin[from] && t.flow.runner.options.Budget.charge(t.flow, overhead) {
			t.flow.queue.put(shadow.Event{From: from, End: how, At: at})
		}
	}
	t.flow.ended.Store(true)
	t.flow.queue.ring()
}
