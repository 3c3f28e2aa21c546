package main

import (
	"context"
	"fmt"
	"time"

	"github.com/splitd/splitd/control/api"
)

// The way back without a daemon. `off --force` must take less than 2 s in all,
// of which offPatience may be spent on a daemon that hangs.
const (
	forcePatience  = 900 * time.Millisecond
	markerPatience = 250 * time.Millisecond // before the daemon is ended
	killPatience   = 300 * time.Millisecond
)

// systemStateDir is the daemon's state_dir when nobody says otherwise.
const systemStateDir = "/var/lib/splitd"

// rescue is what `off --force` does with its own hands.
type rescue struct {
	// permitted says why this process may not rewrite the kernel.
	permitted func() error
	// stateDir reads the daemon's state_dir from the kernel's table.
	stateDir func() (string, error)
	// mark leaves word for the daemon's next start that a split, or all when
	// it is "", was forced off.
	mark func(dir, split string, request api.Request) error
	// kill ends the splitd of that pid and waits until it is gone.
	kill func(ctx context.Context, pid int) error
	// forceOff takes a split, or all when it is "", to its primary in the
	// kernel, and says what it changed.
	forceOff func(ctx context.Context, split string) ([]forced, error)
}

// forced is a split that was taken to its primary.
type forced struct {
	split       string
	generation  uint64
	previousPPM int
}

// forceOff goes the way back without the daemon's help. The word to the next
// daemon is left before this one is ended, because a supervisor may be quicker
// to start it than we are to rewrite the kernel. Nothing but the kernel itself
// can make it fail.
func (o *offCommand) forceOff(ctx context.Context, split string, alive bool) error {
	if err := o.rescue.permitted(); err != nil {
		return fmt.Errorf("force off: %w: use sudo", err)
	}
	ctx, cancel := context.WithTimeout(ctx, forcePatience)
	defer cancel()
	dir := o.findStateDir()
	marked := make(chan error, 1)
	go func() { marked <- o.rescue.mark(dir, split, o.request(o.reason)) }()
	early, stop := context.WithTimeout(ctx, markerPatience)
	err, done := receive(early, marked)
	stop()
	if alive {
		o.endDaemon(ctx)
	}
	// Late is better than never: the kernel is rewritten whatever time is left.
	changes, failed := o.rescue.forceOff(context.WithoutCancel(ctx), split)
	if !done {
		if err, done = receive(ctx, marked); !done {
			err = fmt.Errorf("write in %q: the disk does not answer", dir)
		}
	}
	if err != nil {
		o.warn("%v: the next start of splitd or of this host WOULD RESTORE the old weights: stop splitd, or run `splitctl off` again when it is up", err)
	}
	if failed != nil {
		return fmt.Errorf("force off: %w", failed)
	}
	return o.printForced(split, changes)
}

// receive returns what comes before ctx ends.
func receive(ctx context.Context, from <-chan error) (err error, came bool) { //nolint:revive // the second says whether the first is one
	select {
	case err = <-from:
		return err, true
	case <-ctx.Done():
		return nil, false
	}
}

// endDaemon ends the process that holds the control socket. A stopped daemon
// must not wake up and put back what it remembers.
func (o *offCommand) endDaemon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	pid, err := o.client(0).PeerPID(ctx)
	if err == nil {
		err = o.rescue.kill(ctx, pid)
	}
	if err != nil {
		o.warn("%v: end the daemon by hand, or it may put its weights back", err)
		return
	}
	o.say(fmt.Sprintf("splitctl: ended the daemon, process %d", pid))
}

// findStateDir never fails: a wrong guess costs a warning, or a marker that
// nobody reads.
func (o *offCommand) findStateDir() string {
	if o.stateDir != "" {
		return o.stateDir
	}
	if dir, err := o.rescue.stateDir(); err == nil && dir != "" {
		return dir
	}
	if dir := o.getenv("SPLITD_STATE_DIR"); dir != "" {
		return dir
	}
	return systemStateDir
}

func (o *offCommand) printForced(split string, all []forced) error {
	list := api.ChangeList{Envelope: api.Of(api.KindChangeList), Items: []api.Change{}}
	for _, f := range all {
		list.Items = append(list.Items, api.Change{
			Envelope: api.Of(api.KindChange), Split: f.split, Changed: f.previousPPM > 0,
			Generation: f.generation, PreviousPPM: f.previousPPM,
		})
	}
	switch {
	case len(list.Items) == 0 && split != "":
		return fmt.Errorf("force off: the kernel has no split %q of splitd", split)
	case len(list.Items) == 0:
		o.say("splitctl: nothing of splitd is in the kernel: no flow goes to a candidate through it")
	case split != "" && len(list.Items) == 1:
		return o.printChange(o.output, list.Items[0])
	}
	return o.printChanges(o.output, list)
}
