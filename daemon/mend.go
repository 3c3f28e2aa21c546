package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
)

// How soon a mend that failed is tried again, doubled each time up to the most.
const (
	mendRetry     = time.Second
	mendRetryMost = 30 * time.Second
)

// namePatience is how long a change that was found, and mended, sooner than the kernel's
// news of it was read waits for the name of who made it.
const namePatience = 200 * time.Millisecond

// mendLines is how many differences one line of the log names.
const mendLines = 3

// suspect makes mend look whether another program, who may be unknown, has
// changed the kernel's rules. It waits for nobody.
func (d *Daemon) suspect(who netfilter.Stranger) {
	for {
		select {
		case d.strangers <- who:
			return
		default:
		}
		select {
		case earlier := <-d.strangers:
			if earlier != (netfilter.Stranger{}) {
				who = earlier
			}
		default:
		}
	}
}

// mend puts back what other programs change of the kernel's rules, until ctx
// ends.
func (d *Daemon) mend(ctx context.Context) error {
	var who netfilter.Stranger
	var retry <-chan time.Time
	delay := mendRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case who = <-d.strangers:
		case <-retry:
		}
		if d.mendOnce(context.WithoutCancel(ctx), who) {
			if retry != nil {
				d.log.Info("kernel rules are as wanted again")
			}
			retry, delay = nil, mendRetry
			continue
		}
		retry, delay = time.After(delay), min(2*delay, mendRetryMost)
	}
}

// mendOnce brings the kernel back to what is in force if it differs, and says
// whether there is nothing left to do. It makes no generation and no history,
// because nothing that is wanted has changed.
func (d *Daemon) mendOnce(ctx context.Context, who netfilter.Stranger) bool {
	if before := d.steps.Load(); before%2 == 0 {
		lines, err := d.drift(ctx)
		if err == nil && len(lines) == 0 && d.steps.Load() == before {
			return true // and no change had to wait for this look
		}
	}
	err := d.honourForced(ctx, who)
	var lines []string
	if err == nil {
		lines, err = d.putBack(ctx)
	}
	if len(lines) == 0 {
		if err != nil {
			d.log.Warn("compare the kernel with what is in force; tried again", "error", err)
		}
		return err == nil
	}
	who = d.named(who)
	log := d.log.With("comm", cmp.Or(who.Comm, "unknown"), "pid", who.PID,
		"differences", strings.Join(lines[:min(len(lines), mendLines)], "; "), "count", len(lines))
	if err != nil {
		log.Warn("kernel rules were changed by another program and cannot be mended yet; tried again", "error", err)
		return false
	}
	left, err := d.drift(ctx)
	if err == nil && !slices.ContainsFunc(lines, func(l string) bool { return !slices.Contains(left, l) }) {
		return true // a way back whose device is missing: it comes with the device
	}
	d.mended.Add(1)
	d.wakeInclude() // tables that were open may have been made anew, and owned
	d.rebase(ctx)
	log.Warn("kernel rules were changed by another program; mended")
	return true
}

// named is who changed the kernel's rules, where a look for another reason has found
// it first. What it hears is looked into afterwards, as all is.
func (d *Daemon) named(who netfilter.Stranger) netfilter.Stranger {
	patience := time.After(namePatience)
	for who == (netfilter.Stranger{}) {
		select {
		case who = <-d.strangers:
			defer d.suspect(who)
		case <-patience:
			return who
		}
	}
	return who
}

// drift is what the kernel does otherwise than is in force.
func (d *Daemon) drift(ctx context.Context) ([]string, error) {
	v := d.view.Load()
	return d.planes.differences(ctx, v.splits(), v.paths)
}

// putBack applies all that is in force where the kernel differs from it, and
// returns how it did.
func (d *Daemon) putBack(ctx context.Context) ([]string, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	lines, err := d.drift(ctx)
	if err != nil || len(lines) == 0 {
		return nil, err
	}
	d.steps.Add(1)
	defer d.steps.Add(1)
	v := d.view.Load()
	return lines, d.planes.apply(ctx, v.splits(), v.splits(), v.paths)
}

// honourForced turns off what `splitctl off --force` has turned off in the
// kernel without ending this daemon first: that must not be mended away.
func (d *Daemon) honourForced(ctx context.Context, who netfilter.Stranger) error {
	kernel := d.planes.inUse()
	if kernel == nil {
		return nil
	}
	states, err := kernel.Read(ctx)
	if err != nil {
		return err
	}
	var errs []error
	v := d.view.Load()
	for _, name := range v.names() {
		if s := states[name]; !s.Forced || s.Generation <= v.records.get(name).Generation {
			continue // an older one comes from a saved ruleset
		}
		actor := control.Actor{UID: itself.UID, User: itself.User, PID: int(who.PID), Command: who.Comm}
		if _, err := d.Off(ctx, actor, name, api.Request{Reason: "it was forced off in the kernel"}); err != nil {
			errs = append(errs, fmt.Errorf("record that split %q was forced off: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// rebase lets the observed shares begin again where the kernel's counters have.
// It waits for a raise that is under way, which would give way to it.
func (d *Daemon) rebase(ctx context.Context) {
	d.raising.Lock()
	defer d.raising.Unlock()
	d.changing.Lock()
	defer d.changing.Unlock()
	d.see(d.withBaselines(ctx, d.view.Load()))
}
