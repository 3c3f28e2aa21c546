package daemon

import (
	"context"
	"slices"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// ended counts the open flows of a backend that were ended on request: all, for
// metrics, and those of each drain, for status.
type ended struct {
	total  uint64
	drains []endedBy // drainsKept of them, the one that ended some last at the end
}

// endedBy is how many flows a drain has ended. It is known by its beginning.
type endedBy struct {
	since time.Time
	flows uint64
}

// drainsKept is how many drains of a backend are remembered: an undo brings
// earlier ones back.
const drainsKept = 16

type tallies map[traffic.BackendKey]ended

// count adds flows that were ended; since is when the drain began that ended
// them, zero for none.
func (t *tender) count(key traffic.BackendKey, since time.Time, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.ended[key]
	e.total += uint64(n)
	if !since.IsZero() {
		e.drains = counted(e.drains, since, uint64(n))
	}
	t.ended[key] = e
}

// counted adds flows to those of the drain that began then.
func counted(drains []endedBy, since time.Time, flows uint64) []endedBy {
	if i := slices.IndexFunc(drains, func(e endedBy) bool { return e.since.Equal(since) }); i >= 0 {
		flows += drains[i].flows
		drains = slices.Delete(drains, i, i+1)
	}
	drains = append(drains, endedBy{since, flows})
	return drains[max(0, len(drains)-drainsKept):]
}

// endedAll is how many flows of a backend this daemon has ended on request.
func (t *tender) endedAll(key traffic.BackendKey) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended[key].total
}

// endedBy is how many of them a drain has ended that began then.
func (t *tender) endedBy(key traffic.BackendKey, since time.Time) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.ended[key].drains {
		if e.since.Equal(since) {
			return e.flows
		}
	}
	return 0
}

// An ender ends the flows of one drained candidate: some at a time, all when
// the time has come, or both.
type ender struct {
	since time.Time // when the drain began that it is of
	queue batches   // what is left of the last look, shuffled
	next  time.Time // when some are ended again
	again time.Time // when all are, if not killAt
	over  bool      // all have been
}

// lookAgain is how soon a drain looks again that has found no open flow, or
// could not end them.
const lookAgain = 5 * time.Second

// endDue ends the flows whose time has come, and says how long there is nothing
// to do; false: nothing at all.
func (d *Daemon) endDue(ctx context.Context) (rest time.Duration, busy bool) {
	v, due := d.view.Load(), map[traffic.BackendKey]traffic.Override{}
	for _, name := range v.names() {
		for candidate, o := range v.records.get(name).Overrides {
			if o.Drain && o.EndsFlows() {
				due[traffic.BackendKey{Split: name, Backend: candidate}] = o
			}
		}
	}
	for key := range d.tend.ending {
		if _, ok := due[key]; !ok {
			delete(d.tend.ending, key)
		}
	}
	for key, o := range due {
		e := d.tend.ending[key]
		if e == nil || !e.since.Equal(o.Since) {
			e = &ender{since: o.Since, next: d.now(), again: o.KillAt}
			d.tend.ending[key] = e
		}
		left, more := d.endOf(ctx, v, key, e, o)
		if more && (!busy || left < rest) {
			rest, busy = left, true
		}
	}
	return rest, busy
}

// endOf does what is due of one drain.
func (d *Daemon) endOf(ctx context.Context, v *view, key traffic.BackendKey, e *ender, o traffic.Override) (rest time.Duration, more bool) {
	if !o.KillAt.IsZero() && !e.over && !d.now().Before(e.again) {
		e.over = d.endLate(ctx, v, key, o)
		e.again = d.now().Add(lookAgain)
	}
	if o.Rate > 0 && !d.now().Before(e.next) {
		d.paceOne(ctx, v, key, e, o)
	}
	if o.Rate > 0 {
		rest, more = e.next.Sub(d.now()), true
	}
	if left := e.again.Sub(d.now()); !o.KillAt.IsZero() && !e.over && (!more || left < rest) {
		rest, more = left, true
	}
	return max(rest, 0), more
}

// endLate ends what is open when the time of a drain has come.
func (d *Daemon) endLate(ctx context.Context, v *view, key traffic.BackendKey, o traffic.Override) bool {
	n, err := d.endAll(ctx, v.split(key.Split), key.Backend, o.Since)
	if err != nil {
		d.log.Warn("end flows of a drained candidate; tried again", "split", key.Split, "backend", key.Backend, "flows", n, "error", err)
	} else {
		d.log.Info("ended open flows: the time of their drain has come", "split", key.Split, "backend", key.Backend, "flows", n)
	}
	d.noteEnded(itself, v.records.get(key.Split), n, "the time of the drain of "+key.Backend+" has come")
	return err == nil
}

// paceOne ends as many flows as are due, of those that have not ended by
// themselves since they were listed.
func (d *Daemon) paceOne(ctx context.Context, v *view, key traffic.BackendKey, e *ender, o traffic.Override) {
	n, rest := pace(o.Rate, d.options.Rand)
	e.next = d.now().Add(rest)
	for listed := false; n > 0; {
		if e.queue.left() == 0 {
			if listed {
				break
			}
			listed = true
			var err error
			e.queue, err = d.planes.openFlows(ctx, v.split(key.Split), key.Backend)
			if err != nil {
				d.log.Warn("look at the flows of a drained candidate; tried again", "split", key.Split, "backend", key.Backend, "error", err)
			}
			e.queue.shuffle(d.options.Rand)
			if e.queue.left() == 0 {
				e.next = d.now().Add(lookAgain)
				return
			}
		}
		ended, err := e.queue.end(ctx, min(n, e.queue.left()))
		d.tend.count(key, o.Since, ended)
		if err != nil {
			d.log.Warn("end flows of a drained candidate; tried again", "split", key.Split, "backend", key.Backend, "error", err)
			e.queue = nil
			return
		}
		n -= ended
	}
}

// endAll ends the open flows of a backend, and counts them to the drain that
// began then, if there is one.
func (d *Daemon) endAll(ctx context.Context, split traffic.Split, backend string, since time.Time) (int, error) {
	open, err := d.planes.openFlows(ctx, split, backend)
	n, failed := open.end(ctx, open.left())
	d.tend.count(traffic.BackendKey{Split: split.Name, Backend: backend}, since, n)
	if err == nil {
		err = failed
	}
	return n, err
}

// noteEnded puts into the history that open flows were ended. It waits for
// nobody.
func (d *Daemon) noteEnded(who control.Actor, record state.Record, flows int, reason string) {
	if flows == 0 {
		return
	}
	entry := d.entry(who, state.ActionEnd, record, record, reason, d.now())
	entry.Ended = flows
	d.scribe.submitStore(func(store Store) error {
		entries, err := store.Commit(nil, []state.Entry{entry})
		if err != nil {
			d.log.Error("record the end of open flows", "split", record.Name, "flows", flows, "error", err)
			return err
		}
		return d.journal(entries...)
	})
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
