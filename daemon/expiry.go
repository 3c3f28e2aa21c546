package daemon

import (
	"context"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// itself is the daemon as an actor.
var itself = control.Actor{UID: -1, User: "splitd"}

// retryExpiry is how soon an expiry that could not be carried out (it would
// raise, and the store cannot be written) is tried again.
const retryExpiry = 5 * time.Second

// clockStep is how long a step of the clock may go unnoticed.
const clockStep = time.Minute

// expire drops overrides whose time is over, until ctx ends.
func (d *Daemon) expire(ctx context.Context) error {
	for {
		var timer <-chan time.Time
		if next := d.expireDue(ctx); !next.IsZero() {
			timer = time.After(min(max(next.Sub(d.now()), 0), clockStep))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer:
		case <-d.expiry:
		}
	}
}

// expireDue drops what is over now and returns when it must look again, zero for
// never.
func (d *Daemon) expireDue(ctx context.Context) (next time.Time) {
	now := d.now()
	for _, name := range d.view.Load().names() {
		record := d.view.Load().records.get(name)
		if kept := record.Overrides.Prune(record.Definition, now); len(kept) < len(record.Overrides) {
			if err := d.expireSplit(ctx, name); err != nil {
				d.log.Error("expire override", "split", name, "error", err)
				next = sooner(next, now.Add(retryExpiry))
			}
		}
		for _, o := range record.Overrides {
			if !o.Until.IsZero() && !o.Expired(now) {
				next = sooner(next, o.Until)
			}
		}
	}
	return next
}

func (d *Daemon) expireSplit(ctx context.Context, name string) error {
	w := word{who: itself, action: state.ActionExpire, reason: "ttl is over", since: d.lowered.Load()}
	_, err := d.steer(ctx, w, name, func(record state.Record, now time.Time) (traffic.Overrides, error) {
		return record.Overrides.Prune(record.Definition, now), nil
	})
	return err
}

// sooner is the earlier of two times of which the first may be zero, for never.
func sooner(t, other time.Time) time.Time {
	if t.IsZero() || other.Before(t) {
		return other
	}
	return t
}

// wakeExpiry makes expire look again.
func (d *Daemon) wakeExpiry() {
	select {
	case d.expiry <- struct{}{}:
	default:
	}
}
