package daemon

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// A tender ends open flows: attempts to reach who takes none any more, at once,
// and flows of a drained candidate, at the pace that was asked for.
type tender struct {
	wake chan struct{} // holds one

	mu    sync.Mutex
	freed attempts                      // that are to be freed
	ended map[traffic.BackendKey]uint64 // by pace, for status

	// Of tend alone: the pacers, what could not be freed, and for how long that
	// rests; 0 while nothing has failed.
	pacers map[traffic.BackendKey]*pacer
	late   attempts
	rest   time.Duration
}

// attempts are those to reach backends, of all addresses (nil) or only some.
type attempts map[traffic.BackendKey][]netip.Addr

func (a attempts) add(key traffic.BackendKey, servers []netip.Addr) {
	asked, was := a[key]
	if len(servers) == 0 || was && len(asked) == 0 {
		a[key] = nil
		return
	}
	a[key] = append(asked, servers...)
}

// freeAgain is how soon attempts are freed again after that has failed; twice
// as long each time, until conntrack itself has forgotten them.
const (
	freeAgain     = 200 * time.Millisecond
	freeAgainMost = 2 * time.Minute
)

func newTender() *tender {
	return &tender{
		wake: make(chan struct{}, 1), freed: attempts{},
		ended: map[traffic.BackendKey]uint64{}, pacers: map[traffic.BackendKey]*pacer{},
	}
}

func (t *tender) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// free asks that attempts to reach a backend, or only some addresses of it, are
// ended. It waits for nobody.
func (t *tender) free(key traffic.BackendKey, servers ...netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.freed.add(key, servers)
	t.poke()
}

func (t *tender) toFree() attempts {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked := t.freed
	t.freed = attempts{}
	return asked
}

// endedSoFar is how many flows of a drained candidate this daemon has ended.
func (t *tender) endedSoFar(key traffic.BackendKey) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended[key]
}

func (t *tender) count(key traffic.BackendKey, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[key] += uint64(n)
}

// tendFlows frees attempts and paces drains until ctx ends.
func (d *Daemon) tendFlows(ctx context.Context) error {
	for {
		var next <-chan time.Time
		kernel := d.planes.inUse()
		if kernel != nil {
			rest, busy := d.freeAttempts(ctx, kernel)
			if left, pacing := d.paceAll(ctx, kernel); pacing && (!busy || left < rest) {
				rest, busy = left, true
			}
			if busy {
				next = time.After(rest)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next:
		case <-d.tend.wake:
		}
	}
}

// freeAttempts frees what was asked for: their clients' next SYN goes where the
// rules of now say. Should that fail it says when to try again.
func (d *Daemon) freeAttempts(ctx context.Context, kernel Kernel) (rest time.Duration, again bool) {
	v, from := d.view.Load(), d.tend.toFree()
	for key, servers := range d.tend.late {
		if d.stillShut(v, key, servers) {
			from.add(key, servers)
		}
	}
	d.tend.late = nil
	if len(from) == 0 {
		return 0, false
	}
	var splits []traffic.Split
	named := map[string]bool{}
	for key := range from {
		named[key.Split] = true
	}
	for _, name := range v.names() {
		if named[name] {
			splits = append(splits, v.split(name))
		}
	}
	n, err := kernel.Free(ctx, splits, from)
	if n > 0 {
		d.log.Info("freed attempts to reach backends that take no new flows", "flows", n)
	}
	if err == nil || ctx.Err() != nil {
		d.tend.rest = 0
		return 0, false
	}
	rest = max(freeAgain, 2*d.tend.rest)
	if again = rest <= freeAgainMost; again {
		d.tend.late, d.tend.rest = from, rest
	} else {
		d.tend.rest = 0
	}
	d.log.Warn("free attempts to reach backends that take no new flows", "error", err, "again", again, "in", rest)
	return rest, again
}

// stillShut says whether attempts that could not be freed at once still wait
// for who takes nothing.
func (d *Daemon) stillShut(v *view, key traffic.BackendKey, servers []netip.Addr) bool {
	if !v.records.has(key.Split) {
		return false
	}
	split := health.Withdraw(v.split(key.Split), d.planes.found.Load().down)
	c, ok := split.Candidate(key.Backend)
	return ok && (len(servers) == 0 && !takes(c) || slices.ContainsFunc(servers, func(ip netip.Addr) bool { return slices.Contains(c.Down, ip) }))
}

// shut asks to free the attempts to reach those who could be given new flows
// before and cannot now.
func (d *Daemon) shut(old, now []traffic.Split) {
	before := make(map[string]*traffic.Split, len(old))
	for i := range old {
		before[old[i].Name] = &old[i]
	}
	for i := range now {
		was := before[now[i].Name]
		if was == nil || now[i].Mode == traffic.ModeProxy {
			continue
		}
		for _, c := range now[i].Candidates {
			earlier, _ := was.Candidate(c.Name)
			if takes(earlier) && !takes(c) {
				d.tend.free(traffic.BackendKey{Split: now[i].Name, Backend: c.Name})
			}
		}
	}
}

// freeDead asks to free the attempts to reach addresses that have been found
// dead.
func (d *Daemon) freeDead(was, is traffic.Split) {
	if is.Mode == traffic.ModeProxy {
		return
	}
	before := was.Backends()
	for i, b := range is.Backends() {
		dead := slices.DeleteFunc(slices.Clone(b.Down), func(ip netip.Addr) bool { return slices.Contains(before[i].Down, ip) })
		if len(dead) > 0 {
			d.tend.free(traffic.BackendKey{Split: is.Name, Backend: b.Name}, dead...)
		}
	}
}

// takes says whether a candidate can be given new flows.
func takes(c traffic.Backend) bool {
	return !c.Closed && (c.Weight > 0 || len(c.Clients.Always) > 0)
}

// A pacer ends the flows of one drained candidate, some at a time.
type pacer struct {
	queue []netfilter.OpenFlow // what is left of the last look, shuffled
	next  time.Time
}

// lookAgain is how soon a drain that has found no open flow looks again.
const lookAgain = 5 * time.Second

// paceAll ends the flows whose time has come, and says how long there is
// nothing to do; false: nothing at all.
func (d *Daemon) paceAll(ctx context.Context, kernel Kernel) (rest time.Duration, busy bool) {
	v, due := d.view.Load(), map[traffic.BackendKey]float64{}
	for _, name := range v.names() {
		record := v.records.get(name)
		if v.modes[name] == traffic.ModeProxy {
			continue
		}
		for candidate, o := range record.Overrides {
			if o.Drain && o.Rate > 0 {
				due[traffic.BackendKey{Split: name, Backend: candidate}] = o.Rate
			}
		}
	}
	for key := range d.tend.pacers {
		if _, ok := due[key]; !ok {
			delete(d.tend.pacers, key)
		}
	}
	for key, rate := range due {
		p := d.tend.pacers[key]
		if p == nil {
			p = &pacer{next: d.now()}
			d.tend.pacers[key] = p
		}
		if !d.now().Before(p.next) {
			d.paceOne(ctx, kernel, v, key, p, rate)
		}
		if left := max(p.next.Sub(d.now()), 0); !busy || left < rest {
			rest, busy = left, true
		}
	}
	return rest, busy
}

// paceOne ends as many flows as are due, of those that have not ended by
// themselves since they were listed.
func (d *Daemon) paceOne(ctx context.Context, kernel Kernel, v *view, key traffic.BackendKey, p *pacer, rate float64) {
	n, rest := pace(rate, d.options.Rand)
	p.next = d.now().Add(rest)
	for listed := false; n > 0; {
		if len(p.queue) == 0 {
			if listed {
				break
			}
			listed = true
			flows, err := kernel.OpenFlows(ctx, netfilter.Which{Splits: []traffic.Split{v.split(key.Split)}, Backend: key.Backend, Elsewhere: true})
			if err != nil {
				d.log.Warn("look at the flows of a drained candidate; tried again", "split", key.Split, "backend", key.Backend, "error", err)
			}
			p.queue = shuffled(flows, d.options.Rand)
			if len(p.queue) == 0 {
				p.next = d.now().Add(lookAgain)
				return
			}
		}
		now := min(n, len(p.queue))
		ended, err := kernel.End(ctx, p.queue[:now])
		if err != nil {
			d.log.Warn("end flows of a drained candidate; tried again", "split", key.Split, "backend", key.Backend, "error", err)
			p.queue = nil
			return
		}
		p.queue = p.queue[now:]
		n -= ended
		d.tend.count(key, ended)
	}
}

// pace says how many flows to end now, and how long to rest then: rate a
// second in the mean, with rests from half to three halves of their mean, so
// that clients do not come back in step. Draw gives 0 <= x < 1.
func pace(rate float64, draw func() float64) (flows int, rest time.Duration) {
	const atLeast = 50 * time.Millisecond
	flows = max(1, int(rate*atLeast.Seconds()))
	mean := float64(flows) / rate
	return flows, time.Duration(mean * (0.5 + draw()) * float64(time.Second))
}

// shuffled mixes the flows, because conntrack lists those of a client together
// (Fisher and Yates).
func shuffled(flows []netfilter.OpenFlow, draw func() float64) []netfilter.OpenFlow {
	for i := len(flows) - 1; i > 0; i-- {
		j := int(draw() * float64(i+1))
		flows[i], flows[j] = flows[j], flows[i]
	}
	return flows
}
