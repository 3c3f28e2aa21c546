package daemon

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// checksMost is how many health checks run at one time: each has a socket.
const checksMost = 4096

// How soon a withdrawal that failed is tried again, doubled each time up to the
// most.
const (
	withdrawRetry     = time.Second
	withdrawRetryMost = 30 * time.Second
)

// heed is told by the health checks that a target went down or came up.
func (d *Daemon) heed(e health.Event) {
	log := d.log.With("split", e.Split, "backend", e.Backend, "address", netip.AddrPortFrom(e.Address, e.Port), "from", e.From, "reason", e.Reason)
	switch {
	case e.To == health.Down:
		log.Warn("backend is down")
	case e.From == health.Checking:
		log.Debug("backend is up")
	default:
		log.Info("backend is up")
	}
	d.unsettled.add(e.Split)
}

// nameSet is a set of splits that wait for something.
type nameSet struct {
	mu   sync.Mutex
	set  map[string]bool
	wake chan struct{} // holds one
}

func newNameSet() *nameSet { return &nameSet{set: map[string]bool{}, wake: make(chan struct{}, 1)} }

func (n *nameSet) add(all ...string) {
	n.mu.Lock()
	for _, name := range all {
		n.set[name] = true
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns them and forgets them.
func (n *nameSet) take() map[string]bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.set
	n.set = map[string]bool{}
	return taken
}

// keep puts back what could not be done, without waking anybody.
func (n *nameSet) keep(names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		n.set[name] = true
	}
}

// retarget has checked what the view of now has. A target that is left out
// already must rise before it is used.
func (d *Daemon) retarget() {
	d.targeting.Lock()
	defer d.targeting.Unlock()
	var targets []health.Target
	for _, s := range d.view.Load().splits() {
		var mark uint32
		if s.Mode == traffic.ModeKernel {
			mark = d.options.CheckMark
		}
		targets = append(targets, health.Targets(s, mark)...)
	}
	found := d.planes.found.Load()
	d.health.Set(targets, func(key health.Key) health.State {
		if found.down(key) {
			return health.Down
		}
		return health.Checking
	})
	d.unsettled.add(found.splits()...) // some of it may be checked no more
}

// withdraw leaves out of the planes what is down and takes in what is up again,
// until ctx ends.
func (d *Daemon) withdraw(ctx context.Context) error {
	var retry <-chan time.Time
	delay := withdrawRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.unsettled.wake:
		case <-retry:
		}
		failed, err := d.settleHealth(context.WithoutCancel(ctx), d.unsettled.take())
		if err == nil {
			retry, delay = nil, withdrawRetry
			continue
		}
		d.log.Error("withdraw backends that are down; tried again", "splits", len(failed), "error", err)
		d.unsettled.keep(failed)
		retry, delay = time.After(delay), min(2*delay, withdrawRetryMost)
	}
}

// settleSlice is how long settling health may hold the change lock at a time:
// when a host with thousands of backends dies, `off` must not wait for all.
const settleSlice = 20 * time.Millisecond

// settleHealth brings the planes to what health says of these splits now. It
// makes no generation and no history, because nothing that is wanted changes.
// It returns the splits that failed and the first error.
func (d *Daemon) settleHealth(ctx context.Context, names map[string]bool) (failed []string, err error) {
	waiting := slices.Sorted(maps.Keys(names))
	for len(waiting) > 0 {
		_ = d.exclusively(func() error {
			d.steps.Add(1)
			defer d.steps.Add(1)
			next := d.planes.found.Load().copy()
			var changed []withdrawal
			for began := time.Now(); len(waiting) > 0 && time.Since(began) < settleSlice; waiting = waiting[1:] {
				one, fault := d.settleOne(ctx, next, waiting[0])
				if fault != nil {
					failed, err = append(failed, waiting[0]), cmp.Or(err, fault)
				}
				changed = append(changed, one)
			}
			d.planes.found.Store(next)
			d.tend.free(dead(changed)) // not before: the tender goes by what is found
			d.wakeInclude()
			return nil
		})
	}
	return failed, err
}

// withdrawal is a split as its plane had it, and as it has it since health was
// settled; zero where nothing has changed.
type withdrawal struct{ was, is traffic.Split }

// settleOne brings one split to what health says of it, and enters that into
// next. A kernel that has lost the split is given all of them whole. Called
// under the change lock.
func (d *Daemon) settleOne(ctx context.Context, next *findings, name string) (withdrawal, error) {
	before, down := next.of(name), map[health.Key]bool{}
	for _, status := range d.health.Of(name) {
		if status.State == health.Down {
			down[status.Key] = true
		}
	}
	if maps.Equal(down, before) {
		return withdrawal{}, nil
	}
	v := d.view.Load()
	there := v.records.has(name)
	next.set(name, down)
	if !there {
		return withdrawal{}, nil
	}
	split := v.split(name)
	earlier := health.Withdraw(split, func(key health.Key) bool { return before[key] })
	err := d.planes.setBackends(ctx, split, next)
	if errors.Is(err, netfilter.ErrNotInKernel) {
		d.log.Warn("kernel has lost the splits; all is applied again", "error", err)
		d.planes.found.Store(next.copy())
		err = d.planes.apply(ctx, v.splits(), v.splits(), v.paths)
	}
	if err != nil {
		next.set(name, before)
		return withdrawal{}, err
	}
	is := health.Withdraw(split, next.down)
	d.tellWithdrawn(earlier, is)
	return withdrawal{earlier, is}, nil
}

// tellWithdrawn logs what is left out of a split now.
func (d *Daemon) tellWithdrawn(before, after traffic.Split) {
	for i, c := range after.Candidates {
		if slices.Equal(c.Down, before.Candidates[i].Down) {
			continue
		}
		log := d.log.With("split", after.Name, "candidate", c.Name)
		if len(c.Down) == 0 {
			log.Info("candidate is taken in again")
			continue
		}
		log.Warn("candidate is withdrawn at the addresses that are down", "addresses", c.Down)
	}
}

// foundBefore takes over what the kernel leaves out since an earlier run, so
// that the first apply does not take it in again.
func (d *Daemon) foundBefore(splits []traffic.Split, kernel map[string]netfilter.SplitState) {
	found := &findings{}
	for _, s := range splits {
		found.set(s.Name, withdrawnBy(s, kernel[s.Name]))
	}
	d.planes.found.Store(found)
}

// withdrawnBy are the targets of a split that the kernel leaves out.
func withdrawnBy(s traffic.Split, kernel netfilter.SplitState) map[health.Key]bool {
	down := map[health.Key]bool{}
	for _, t := range health.Targets(s, 0) {
		families := kernel.Down[t.Backend]
		if t.Address.Is4() && families.IPv4 || t.Address.Is6() && families.IPv6 {
			down[t.Key] = true
		}
	}
	return down
}

// mayRun refuses commands for checks that somebody sends who may not start
// processes as this daemon's user: who may only change weights would else become
// that user. What runs already may be sent again.
func (d *Daemon) mayRun(who control.Actor, splits []traffic.Split) error {
	if who.UID <= 0 || who.UID == d.options.UID {
		return nil
	}
	v := d.view.Load()
	for _, s := range splits {
		known := func(name string) bool {
			return slices.Equal(v.records.get(name).Definition.Health.Command, s.Health.Command)
		}
		if len(s.Health.Command) > 0 && !slices.ContainsFunc(v.names(), known) {
			return refuse(api.CodeForbidden, "apply: split %q: health.command: a command may be named in the daemon's files (%s), by root and by the daemon's own user, not by you: put it there and run `splitctl apply`",
				s.Name, d.options.Sources)
		}
	}
	return nil
}
