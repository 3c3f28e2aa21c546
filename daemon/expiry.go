package daemon

import (
	"context"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/state"
)

// itself is the daemon as an actor.
var itself = control.Actor{UID: -1, User: "splitd"}

// retryExpiry is how soon an expiry that could not be carried out (it would
// raise, and the store cannot be written) is tried again.
const retryExpiry = 5 * time.Second

// expire drops overrides whose time is over, until ctx ends.
func (d *Daemon) expire(ctx context.Context) error {
	for {
		next, any := d.expireDue(ctx)
		var timer <-chan time.Time
		if any {
			timer = time.After(max(next.Sub(d.now()), 0))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer:
		case <-d.expiry:
		}
	}
}

// expireDue drops what is over now and returns when it must look again.
func (d *Daemon) expireDue(ctx context.Context) (next time.Time, any bool) {
	d.changing.Lock()
	defer d.changing.Unlock()
	now := d.now()
	for _, name := range d.view.Load().names() {
		record := d.view.Load().records[name]
		kept := record.Overrides.Prune(record.Definition, now)
		if len(kept) < len(record.Overrides) {
			if _, err := d.setOverrides(ctx, itself, state.ActionExpire, 0, record, kept, "ttl is over", now); err != nil {
				d.log.Error("expire override", "split", name, "error", err)
				next, any = sooner(next, any, now.Add(retryExpiry))
			}
		}
		for _, o := range kept {
			if !o.Until.IsZero() {
				next, any = sooner(next, any, o.Until)
			}
		}
	}
	return next, any
}

func sooner(t time.Time, any bool, other time.Time) (time.Time, bool) {
	if !any || other.Before(t) {
		return other, true
	}
	return t, true
}

// wakeExpiry makes expire look again.
func (d *Daemon) wakeExpiry() {
	select {
	case d.expiry <- struct{}{}:
	default:
	}
}
