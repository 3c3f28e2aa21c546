package daemon

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/traffic"
)

// A tender ends open flows: attempts to reach who takes none any more, at once,
// and flows of a drained candidate, at the pace that was asked for.
type tender struct {
	wake chan struct{} // holds one

	mu    sync.Mutex
	freed attempts // that are to be freed
	ended tallies  // for status and metrics

	// Of tend alone: the drains that end flows, what could not be freed, and for
	// how long that rests; 0 while nothing has failed.
	ending map[traffic.BackendKey]*ender
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
		ended: tallies{}, ending: map[traffic.BackendKey]*ender{},
	}
}

func (t *tender) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// free asks that attempts are ended. It waits for nobody.
func (t *tender) free(from attempts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, servers := range from {
		t.freed.add(key, servers)
	}
	t.poke()
}

func (t *tender) toFree() attempts {
	t.mu.Lock()
	defer t.mu.Unlock()
	asked := t.freed
	t.freed = attempts{}
	return asked
}

// tendFlows frees attempts and ends flows of drained candidates until ctx ends.
func (d *Daemon) tendFlows(ctx context.Context) error {
	for {
		var next <-chan time.Time
		rest, busy := d.freeAttempts(ctx)
		if left, ending := d.endDue(ctx); ending && (!busy || left < rest) {
			rest, busy = left, true
		}
		if busy {
			next = time.After(rest)
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
// rules of now say, and the relay's go to the primary. Should that fail it says
// when to try again.
func (d *Daemon) freeAttempts(ctx context.Context) (rest time.Duration, again bool) {
	waiting := []attempts{d.tend.toFree(), d.tend.late}
	v, from := d.view.Load(), attempts{} // not before: what asked has changed it
	for _, asked := range waiting {
		for key, servers := range asked {
			if d.stillShut(v, key, servers) { // it may have been raised meanwhile
				from.add(key, servers)
			}
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
	n, err := d.planes.free(ctx, splits, from)
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

// stillShut says whether attempts that are to be freed wait for who takes
// nothing.
func (d *Daemon) stillShut(v *view, key traffic.BackendKey, servers []netip.Addr) bool {
	if !v.records.has(key.Split) {
		return false
	}
	split := health.Withdraw(v.split(key.Split), d.planes.found.Load().down)
	backends := split.Backends()
	i := slices.IndexFunc(backends, func(b traffic.Backend) bool { return b.Name == key.Backend })
	if i < 0 {
		return false
	}
	if len(servers) == 0 {
		return i > 0 && !takes(backends[i])
	}
	return slices.ContainsFunc(servers, func(ip netip.Addr) bool { return slices.Contains(backends[i].Down, ip) })
}

// shut are the attempts to reach those who could be given new flows before and
// cannot now.
func shut(old, now []traffic.Split) attempts {
	found := attempts{}
	before := make(map[string]*traffic.Split, len(old))
	for i := range old {
		before[old[i].Name] = &old[i]
	}
	for i := range now {
		was := before[now[i].Name]
		if was == nil {
			continue
		}
		for _, c := range now[i].Candidates {
			earlier, _ := was.Candidate(c.Name)
			if takes(earlier) && !takes(c) {
				found[traffic.BackendKey{Split: now[i].Name, Backend: c.Name}] = nil
			}
		}
	}
	return found
}

// dead are the attempts to reach addresses that have been found dead.
func dead(changed []withdrawal) attempts {
	found := attempts{}
	for _, split := range changed {
		before := split.was.Backends()
		for i, b := range split.is.Backends() {
			since := slices.DeleteFunc(slices.Clone(b.Down), func(ip netip.Addr) bool { return slices.Contains(before[i].Down, ip) })
			if len(since) > 0 {
				found[traffic.BackendKey{Split: split.is.Name, Backend: b.Name}] = since
			}
		}
	}
	return found
}

// takes says whether a candidate can be given new flows.
func takes(c traffic.Backend) bool {
	return !c.Closed && (c.Weight > 0 || len(c.Clients.Always) > 0)
}
