package health

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"
)

// Checker makes one check. It returns when ctx ends, at the latest: that is the
// target's timeout.
type Checker interface {
	Check(ctx context.Context, t Target) Result
}

// Event is a change of a target's state.
type Event struct {
	Key
	From, To State
	Reason   string
	At       time.Time
	Port     uint16 // at which it is checked
}

// Options are what a Runner is made from. All are needed.
type Options struct {
	Checker Checker
	// Notify is told of every event, of one target in order, from many
	// goroutines. What it does delays the target's next check.
	Notify func(Event)
	Now    func() time.Time
	Rand   func() float64 // 0 <= x < 1; called under a lock, one at a time
	Limit  int            // checks at one time
	Log    *slog.Logger
}

// Runner checks targets. Its methods may be called from many goroutines.
type Runner struct {
	options Options
	log     *slog.Logger
	wake    chan struct{} // the queue may have something due

	mu      sync.Mutex
	probes  map[Key]*probe
	bySplit map[string][]*probe
	queue   queue
	running int
	late    uint64
	lateLog time.Time // when it was last said
	checks  sync.WaitGroup
}

// probe is a target and its state. It is in the queue or being checked; one
// that is no longer in probes is neither for long.
type probe struct {
	target   Target
	standing Standing
	due      time.Time
	index    int // in the queue
}

// New makes a runner without targets. Run it.
func New(o Options) *Runner {
	return &Runner{options: o, log: o.Log, wake: make(chan struct{}, 1), probes: map[Key]*probe{}, bySplit: map[string][]*probe{}}
}

// spread is the time that each new target adds to that over which the first
// checks are spread, an interval at the most.
const spread = time.Millisecond

// Set makes these the targets. One that was there before keeps its state, and
// its counts too if nothing about it has changed. One that is new begins with
// what initial says: Down must rise first, everything else is Checking.
func (r *Runner) Set(targets []Target, initial func(Key) State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.options.Now()
	probes := make(map[Key]*probe, len(targets))
	bySplit := make(map[string][]*probe)
	var fresh []*probe
	for _, t := range targets {
		p, known := r.probes[t.Key]
		switch {
		case !known:
			p = &probe{target: t, standing: begin(initial(t.Key), now)}
			fresh = append(fresh, p)
		case !reflect.DeepEqual(p.target, t):
			r.queue.drop(p)
			p = &probe{target: t, standing: p.standing}
			p.standing.Against = 0
			fresh = append(fresh, p)
		}
		probes[t.Key] = p
		bySplit[t.Split] = append(bySplit[t.Split], p)
	}
	for key, p := range r.probes {
		if probes[key] != p {
			r.queue.drop(p)
		}
	}
	for _, p := range fresh {
		over := min(time.Duration(len(fresh))*spread, p.target.Health.Interval)
		p.due = now.Add(time.Duration(r.options.Rand() * float64(over)))
		r.queue.add(p)
	}
	r.probes, r.bySplit = probes, bySplit
	r.rouse()
}

func begin(state State, now time.Time) Standing {
	if state == Down {
		return Standing{State: Down, Since: now, Falls: 1, Reason: "it was down before"}
	}
	return Standing{State: Checking, Since: now}
}

// Of are the statuses of the targets of a split, in the order in which they
// were set.
func (r *Runner) Of(split string) []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	statuses := make([]Status, 0, len(r.bySplit[split]))
	for _, p := range r.bySplit[split] {
		statuses = append(statuses, Status{p.target.Key, p.standing, p.target.Port})
	}
	return statuses
}

// IsDown says whether a target is down. One that is not checked is not.
func (r *Runner) IsDown(key Key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.probes[key]
	return ok && p.standing.State == Down
}

// Late is how many checks began late because too many others were under way.
func (r *Runner) Late() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.late
}

// Run checks until ctx ends, and returns nil when no check is under way any
// more.
func (r *Runner) Run(ctx context.Context) error {
	defer r.checks.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wait, some := r.launch(ctx); some {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
	}
}

// rouse makes Run look at the queue.
func (r *Runner) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// launch begins the checks that are due, as many as may run, and says how long
// it is until the next one is. Where the most are under way, the end of one
// rouses.
func (r *Runner) launch(ctx context.Context) (wait time.Duration, some bool) {
	wait, some, late := r.start(ctx)
	if late > 0 {
		r.log.Warn("health checks are late: too many are under way, or this host is too busy; raise health.interval",
			"at_one_time", r.options.Limit, "late", late)
	}
	return wait, some
}

// start is launch under the lock; late is how many checks have begun late so
// far, when it is time to say so.
func (r *Runner) start(ctx context.Context) (wait time.Duration, some bool, late uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 && r.running < r.options.Limit {
		p, now := r.queue[0], r.options.Now()
		if wait := p.due.Sub(now); wait > 0 {
			return wait, true, late
		}
		if now.Sub(p.due) >= p.target.Health.Interval/2 {
			r.late++
			if now.Sub(r.lateLog) >= lateEvery {
				r.lateLog, late = now, r.late
			}
		}
		r.queue.drop(p)
		r.running++
		r.checks.Go(func() { r.check(ctx, p, now) })
	}
	return 0, false, late
}

// lateEvery is how often the log says that checks are late.
const lateEvery = time.Minute

// check makes one check, takes its result, and puts the target back into the
// queue: an interval after this check began, less up to a tenth, so that checks
// of many targets stay apart from each other and none comes later than promised.
func (r *Runner) check(ctx context.Context, p *probe, began time.Time) {
	defer r.rouse()
	timed, cancel := context.WithTimeout(ctx, p.target.Health.Timeout)
	result := r.options.Checker.Check(timed, p.target)
	cancel()
	if before, after, taken := r.take(ctx, p, result); taken {
		r.tell(p.target, before, after)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
	if r.probes[p.target.Key] != p {
		return
	}
	p.due = began.Add(jittered(p.target.Health.Interval, r.options.Rand()))
	r.queue.add(p)
}

func jittered(interval time.Duration, random float64) time.Duration {
	return interval - time.Duration(random*float64(interval)/10)
}

// take enters a result, unless nobody asks for it any more.
func (r *Runner) take(ctx context.Context, p *probe, result Result) (before, after Standing, taken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ctx.Err() != nil || r.probes[p.target.Key] != p {
		return before, after, false
	}
	before = p.standing
	p.standing = Next(before, result, p.target.rules(), r.options.Now())
	return before, p.standing, true
}

// tell tells of what a result has changed.
func (r *Runner) tell(t Target, before, after Standing) {
	if after.Trouble != "" && before.Trouble == "" {
		r.log.Warn("health check cannot be made; its backend keeps its state", "split", t.Split,
			"backend", t.Backend, "address", t.Address, "error", after.Trouble)
	}
	if before.State != after.State {
		r.options.Notify(Event{t.Key, before.State, after.State, t.rules().reason(before, after), after.Since, t.Port})
	}
}
