package play

import (
	"encoding/json"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/tally"
	"github.com/splitd/splitd/traffic"
)

// A Play is the shadow of one split at one candidate. Its methods may be called
// from many goroutines.
type Play struct {
	options  Options
	made     made
	protocol protocol
	ignore   []shadow.Ignore // the user's rules, and then what is built in
	dial     runner.Options  // what each of its runners is made of
	book     *book
	mistrust sync.Once // says that sums are wrong

	running atomic.Pointer[runner.Runner] // nil: no flow is played

	summing sync.Mutex // guards summed, while a report is made
	summed  Numbers    // of its edition, but for its counts

	mu     sync.Mutex
	ending []*runner.Runner // that were halted and whose flows end
	ends   sync.WaitGroup   // waits for them
	closed bool
}

// New makes a Play, which plays no flow before Begin. Close it. What the options
// bring from earlier plays, or from a disk, and cannot be gone on with is left, with
// a line in the log.
func New(o Options) (*Play, error) {
	to, err := candidate(o.Split)
	if err != nil {
		return nil, err
	}
	spoken, err := protocolOf(o.Split)
	if err != nil {
		return nil, err
	}
	users, err := rules(o.Split.Shadow)
	if err != nil {
		return nil, fmt.Errorf("shadow split %q: %w", o.Split.Name, err)
	}
	of := madeOf(o.Split)
	o = o.withDefaults()
	p := &Play{options: o, made: of, protocol: spoken, ignore: slices.Concat(users, spoken.noise, shadow.SecuredNoise())}
	p.takeOver(to.Name, users)
	s := o.Split.Shadow
	p.dial = runner.Options{
		Driver: spoken.driver, Dial: o.toCandidate(to), Secure: o.secures(), Sink: p,
		Budget: o.Budget, FlowBudget: s.FlowBudget, Keep: int(s.FlowBudget / keepShare), Flows: int64(s.MaxFlows),
		Patience: s.Patience, Totals: &p.book.totals, Ended: o.Ended, Now: o.Now, Log: o.Log,
	}
	if spoken.learns {
		p.dial.Control, p.dial.Learns, p.dial.Again = o.toControl(), p.learns, p.again
	}
	return p, nil
}

// takeOver goes on with what was counted before, where that is of the same.
func (p *Play) takeOver(to string, users []shadow.Ignore) {
	defer func() { p.options.After, p.options.Kept = nil, nil }() // they may be large
	full := p.options.Split.Shadow.FullSamples
	counting := tally.Options{Protocol: p.protocol.name, Ignore: users, Full: full}
	if before := p.options.After; before != nil {
		if b := before.book; b.protocol == p.protocol.name && b.candidate == to {
			b.setRules(users, full)
			p.book = b
			return
		}
		p.options.Log.Info("report begins anew: it is of another candidate or protocol", "was", before.book.candidate, "by", before.book.protocol)
	} else if len(p.options.Kept) > 0 {
		b, err := readBook(p.options.Kept, p.protocol, to, counting)
		if err == nil {
			p.book = b
			return
		}
		p.options.Log.Warn("report begins anew", "error", err)
	}
	p.book = newBook(p.protocol, to, tally.New(counting))
}

// Split is what the Play was made for.
func (p *Play) Split() traffic.Split { return p.options.Split }

// Rule says in words what may be written to the candidate.
func (p *Play) Rule() string { return ruleOf(p.options.Split, p.protocol) }

// Begin has flows played from now on. Begun already, nothing happens.
func (p *Play) Begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.running.Load() != nil {
		return
	}
	p.running.Store(runner.New(p.dial))
}

// Halt ends all shadows, and has no flow played any more. It does not wait until
// the last has ended. What was counted stays.
func (p *Play) Halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.halt()
}

// halt is Halt under p.mu.
func (p *Play) halt() {
	r := p.running.Swap(nil)
	if r == nil {
		return
	}
	r.Stop()
	p.ending = append(p.ending, r)
	p.ends.Go(func() {
		r.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ending = slices.DeleteFunc(p.ending, func(e *runner.Runner) bool { return e == r })
	})
}

// Close is Halt for good, and waits until the last shadow has ended.
func (p *Play) Close() {
	p.mu.Lock()
	p.closed = true
	p.halt()
	p.mu.Unlock()
	p.ends.Wait()
}

// Open begins the shadow of a flow that the primary has answered; nil says that
// there is none, which is counted. It waits for nothing, and takes no lock.
func (p *Play) Open(of runner.Flow) *runner.Tap {
	r := p.running.Load()
	if r == nil { // its sample was above 0 when it was drawn
		p.Decline(runner.Declined{Stopped: 1})
		return nil
	}
	return r.Open(of)
}

var _ runner.Sink = (*Play)(nil)

// Counts are the numbers of a Play. Open is of now; the other numbers only grow, over
// all plays that followed one another, and begin with the process.
type Counts struct {
	Running   bool // flows are played
	Open      int64
	Declined  runner.Declined
	Elsewhere runner.Declined // those of them that DeclineElsewhere has told of
	Panicked  uint64          // shadows that a panic has ended
	Unsound   uint64          // times that sums were wrong
	Resets    uint64
	// Breaker says why the candidate is left alone for a while; "" when it is not. Rests
	// is for how long yet it lets no flow through, unless one that runs is answered.
	Breaker string
	Rests   time.Duration
}

// Counts returns the numbers as they are now.
func (p *Play) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := Counts{Declined: p.book.totals.Declined(), Panicked: p.book.totals.Panicked()}
	for _, r := range p.ending {
		c.Open += r.Counts().Open
	}
	if r := p.running.Load(); r != nil {
		now := r.Counts()
		c.Running, c.Open, c.Breaker, c.Rests = true, c.Open+now.Open, now.Breaker, now.Rests
	}
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	c.Declined, c.Elsewhere = c.Declined.Plus(p.book.elsewhere), p.book.elsewhere
	c.Unsound, c.Resets = p.book.unsound, p.book.resets
	return c
}

// learns is asked by the runner, in the goroutine of a flow that begins.
func (p *Play) learns() bool { return p.book.learns(p.options.Draw(), p.options.Now()) }

// again is asked in the goroutine of a flow that learns, before an exchange.
func (p *Play) again(endpoint string) bool {
	return p.book.again(endpoint, p.options.Draw(), p.options.Now())
}

// Exchanged implements [runner.Sink]: it compares, in the goroutine of the flow, and
// counts.
func (p *Play) Exchanged(exchanges []shadow.Exchange, control bool) {
	found := make([]finding, 0, len(exchanges))
	for _, x := range exchanges {
		found = append(found, p.compare(x, control))
	}
	p.book.add(found, control, p.options.Now())
}

// compare finds what an exchange differs in. A panic costs this exchange its
// comparison, which is counted.
func (p *Play) compare(x shadow.Exchange, control bool) (f finding) {
	defer func() {
		if v := recover(); v != nil {
			p.options.Log.Error("an exchange is not compared: the comparer panicked", "endpoint", x.Endpoint, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			f = finding{exchange: shadow.Exchange{Endpoint: x.Endpoint, Verdict: shadow.Opaque, Reason: "the comparer panicked"}}
		}
	}()
	if took, ok := timed(x); ok && !control {
		p.options.Observe(took)
	}
	return finding{x, shadow.Differences(x, p.ignore)}
}

// timed is how long both servers took for an exchange that was compared.
func timed(x shadow.Exchange) (t Timed, ok bool) {
	if x.Verdict != "" {
		return t, false
	}
	primary, ok := took(x.Primary)
	candidate, also := took(x.Candidate)
	return Timed{primary, candidate}, ok && also
}

func took(r shadow.Reply) (t Took, ok bool) {
	if r.Asked.IsZero() || r.First.Before(r.Asked) || r.Last.Before(r.First) {
		return t, false
	}
	return Took{r.First.Sub(r.Asked), r.Last.Sub(r.Asked)}, true
}

// Report is what is known of how the candidate answers.
func (p *Play) Report() report.Report {
	s, _ := p.book.state(p.options.Now())
	return p.make(s)
}

func (p *Play) make(s tally.State) report.Report {
	split := p.options.Split
	effect := float64(split.Shadow.MinEffect) / float64(traffic.Whole)
	r := report.Make(s, report.Options{
		Split: split.Name, Primary: split.Primary.Name, Candidate: p.book.candidate, Rule: p.Rule(), Away: p.options.Away,
		SeenInto:   split.Shadow.TLS.On(),
		Thresholds: tally.Thresholds{Effect: effect, Least: tally.DefaultThresholds().Least},
	})
	p.judge(r)
	return r
}

// judge counts a report whose sums are wrong, and logs the first.
func (p *Play) judge(r report.Report) {
	wrong := r.Unaccounted()
	if wrong == "" {
		return
	}
	p.book.mistrust()
	p.mistrust.Do(func() { p.options.Log.Error("do not rely on the report", "because", wrong) })
}

// Reset forgets what was counted, and says what that was. Flows that are played go on, and
// are counted from here on; what a Halt has ended has told all that it has to tell before.
func (p *Play) Reset() Forgotten {
	if p.running.Load() == nil {
		p.settle()
	}
	return forgotten(p.book.reset(p.options.Now()))
}

// settlePatience is how long a Reset waits for flows that end.
const settlePatience = time.Second

// settle waits until the flows that a Halt has ended have ended, a moment at most.
func (p *Play) settle() {
	p.mu.Lock()
	ending := slices.Clone(p.ending)
	p.mu.Unlock()
	settled := make(chan struct{})
	go func() {
		defer close(settled)
		for _, r := range ending {
			r.Close()
		}
	}()
	late := time.NewTimer(settlePatience)
	defer late.Stop()
	select {
	case <-settled:
	case <-late.C:
	}
}

// Edition changes whenever what was counted does.
func (p *Play) Edition() uint64 {
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	p.book.settle(p.options.Now())
	return p.book.edition
}

// Bytes writes what was counted, for Options.Kept of a later process, and says of
// which edition it is.
func (p *Play) Bytes() (text []byte, edition uint64, err error) {
	s, edition := p.book.state(p.options.Now())
	counted, err := json.Marshal(s)
	if err == nil {
		text, err = json.Marshal(kept{p.book.candidate, p.book.protocol, p.options.Split.Shadow.FullSamples, counted})
	}
	if err != nil {
		return nil, 0, fmt.Errorf("write what was counted of split %q: %w", p.options.Split.Name, err)
	}
	return text, edition, nil
}

// Follows says whether a split is still to be played as this Play does: nothing of
// what it was made of has changed.
func (p *Play) Follows(s traffic.Split) bool { return reflect.DeepEqual(p.made, madeOf(s)) }

// Alike says whether two splits are played in the same way, see [Play.Follows].
func Alike(a, b traffic.Split) bool { return reflect.DeepEqual(madeOf(a), madeOf(b)) }

// Check says why a split cannot be played; nil where it can.
func Check(s traffic.Split) error {
	if _, err := candidate(s); err != nil {
		return err
	}
	if _, err := protocolOf(s); err != nil {
		return err
	}
	if _, err := rules(s.Shadow); err != nil {
		return fmt.Errorf("shadow split %q: %w", s.Name, err)
	}
	return nil
}
