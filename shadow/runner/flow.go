package runner

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow"
)

// Why a shadow was dropped.
const (
	overBudget     = "over shadow.budget"
	overFlowBudget = "over flow_budget"
	untold         = "the process that plays shadows is late: it has no processor"
	ending         = "splitd ends, or shadows the split no more"
)

// flow is the shadow of one flow. It belongs to its own goroutine, but for what
// its Tap and the budget may touch.
type flow struct {
	runner *Runner
	of     Flow
	queue  *queue

	charged atomic.Int64           // bytes that the budget counts as its
	fixed   atomic.Int64           // of these, what its connections take: no part of FlowBudget
	over    atomic.Bool            // nothing is taken any more
	dropped atomic.Pointer[string] // why it is to end early
	ended   atomic.Bool            // the relay's flow is over
	gone    atomic.Bool            // the goroutine has given back what it held

	older, newer *flow // the budget's

	sessions []*session
	news     chan news
	holds    int64 // bytes that drivers and outboxes hold, charged
}

func newFlow(r *Runner, of Flow) *flow {
	return &flow{runner: r, of: of, queue: newQueue(), news: make(chan news)}
}

// held is how many bytes it holds of what FlowBudget bounds.
func (f *flow) held() int64 { return f.charged.Load() - f.fixed.Load() }

// drop has the shadow end; the first reason counts. It may be called from any
// goroutine and does not wait.
func (f *flow) drop(reason string) {
	f.dropped.CompareAndSwap(nil, &reason)
	f.over.Store(true)
	f.queue.ring()
}

// run plays the flow to its end.
func (f *flow) run() {
	defer f.runner.gate.leave()
	defer f.runner.options.Ended()
	budget := f.runner.options.Budget
	budget.enter(f)
	defer func() {
		f.over.Store(true)
		budget.leave(f)
		f.gone.Store(true)
		f.forget()
		budget.settle(f)
	}()
	defer f.contain()
	f.begin()
	for !f.done() {
		f.wait()
	}
	f.finish()
}

// pass counts a flow of which nothing can be seen.
func (f *flow) pass() {
	defer f.runner.gate.leave()
	defer f.runner.options.Ended()
	defer f.contain()
	f.runner.options.Sink.Exchanged([]shadow.Exchange{{Endpoint: shadow.Handshaken, Verdict: shadow.Opaque, Reason: f.of.Opaque}}, false)
}

// takes is what each of its connections takes, in bytes.
func (f *flow) takes() int64 {
	if f.of.TLS != nil {
		return connection + insideTLS
	}
	return connection
}

// forget lets go of all that it held: a relay may hold its Tap for hours still.
func (f *flow) forget() {
	f.sessions = nil
	for taken := true; taken; {
		_, taken = f.queue.take()
	}
}

// begin makes the sessions: one with the candidate, and where the flow learns
// another with the control.
func (f *flow) begin() {
	o := f.runner.options
	f.sessions = append(f.sessions, newSession(f, false, o.Dial))
	if f.dropped.Load() != nil {
		return // it tells why, and connects nobody
	}
	if o.Control != nil && o.Learns != nil && o.Learns() && o.Budget.admit(f, f.takes()) {
		f.sessions = append(f.sessions, newSession(f, true, o.Control))
	}
	for _, s := range f.sessions {
		s.dial()
	}
}

// done does all that can be done without waiting, and says whether the shadow is
// over.
func (f *flow) done() bool {
	for f.next() {
	}
	return f.dropped.Load() != nil || f.allDone()
}

// next takes what is next in the queue, and says whether there may be more.
func (f *flow) next() (more bool) {
	if f.dropped.Load() != nil {
		return false
	}
	ended := f.ended.Load() // before the queue is seen to be empty
	e, ok := f.queue.take()
	if !ok {
		if ended {
			f.rest()
		}
		return false
	}
	for _, s := range f.sessions {
		s.hear(e)
	}
	f.runner.options.Budget.refund(f, costs(e))
	f.hold()
	return !f.allDone()
}

// rest ends the sessions of a flow that is over to which nothing more will come.
func (f *flow) rest() {
	for _, s := range f.sessions {
		if !s.over && s.deadline.IsZero() {
			s.stop(shadow.Dropped, "the flow has ended")
		}
	}
}

func (f *flow) allDone() bool {
	for _, s := range f.sessions {
		if !s.over || s.lingers() {
			return false
		}
	}
	return true
}

// wait waits for the next thing to do, and does what a candidate's news ask for.
func (f *flow) wait() {
	var alarm <-chan time.Time
	if patience, owed := f.patience(); owed {
		t := time.NewTimer(patience)
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-f.queue.bell:
	case n := <-f.news:
		f.heed(n)
	case <-alarm:
		select {
		case n := <-f.news: // the candidate has answered, and this process was late
			f.heed(n)
		default:
			f.lapse()
		}
	case <-f.runner.ctx.Done():
		f.drop(ending)
	}
}

// heed takes what a candidate has said.
func (f *flow) heed(n news) {
	n.session.told(n)
	f.hold()
}

// patience is how long until the first session's is over.
func (f *flow) patience() (first time.Duration, owed bool) {
	now := f.runner.options.Now()
	for _, s := range f.sessions {
		if s.deadline.IsZero() {
			continue
		}
		if left := max(s.deadline.Sub(now), 0); !owed || left < first {
			first, owed = left, true
		}
	}
	return first, owed
}

// lateMost is how much later than it should a timer may ring: on a host that has no
// processor for shadows a candidate's patience is not what is over.
const lateMost = time.Second

// lapse ends the sessions whose patience is over.
func (f *flow) lapse() {
	now := f.runner.options.Now()
	for _, s := range f.sessions {
		switch {
		case s.deadline.IsZero() || now.Before(s.deadline):
		case now.Sub(s.deadline) > lateMost:
			f.drop(untold) // what the candidate has said meanwhile nobody has heard
		default:
			s.lapse(now)
		}
	}
}

// hold brings up to date what the budget counts for drivers and outboxes, and
// drops the shadow where that is too much.
func (f *flow) hold() {
	o, holds := f.runner.options, int64(0)
	for _, s := range f.sessions {
		if !s.over {
			holds += int64(s.driver.Held())
		}
		if !s.over || s.lingers() {
			holds += s.out.holds()
		}
	}
	grown := holds - f.holds
	switch {
	case grown <= 0:
		o.Budget.refund(f, -grown)
	case f.held()+grown > o.FlowBudget:
		f.drop(overFlowBudget)
		return
	case !o.Budget.charge(f, grown):
		f.drop(overBudget)
		return
	}
	f.holds = holds
}

// finish tells what is left, and the breaker how the candidate fared.
func (f *flow) finish() {
	reason := f.dropped.Load()
	for _, s := range f.sessions {
		switch {
		case !s.over:
			s.stop(shadow.Dropped, *reason)
		case s.lingers():
			s.hangUp()
		}
	}
	switch main := f.sessions[0]; {
	case main.failure != "":
		f.runner.judged(main.failure)
	case reason != nil && *reason == overFlowBudget && main.lags():
		f.runner.judged("it lags: " + overFlowBudget)
	case reason != nil && (*reason == overBudget || *reason == untold):
		// Others may have filled it: nothing was learnt of the candidate, not even that
		// it is well, though it has greeted.
	case main.answered:
		f.runner.judged("")
	}
}

// contain keeps a panic of a driver to its flow, whose exchange is told as one
// that was not understood.
func (f *flow) contain() {
	v := recover()
	if v == nil {
		return
	}
	f.runner.totals.panicked.Add(1)
	f.runner.options.Log.Error("a shadow panicked and is over", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	for _, s := range f.sessions {
		if !s.over {
			s.end()
			f.tellPanic(s)
		}
	}
}

// tellPanic counts what a panic has ended. It may have been the sink's.
func (f *flow) tellPanic(s *session) {
	defer func() {
		if v := recover(); v != nil {
			f.runner.options.Log.Error("an exchange is not counted: who counts them panicked", "panic", fmt.Sprint(v))
		}
	}()
	f.runner.options.Sink.Exchanged([]shadow.Exchange{{Verdict: shadow.Opaque, Reason: "the driver panicked"}}, s.control)
}
