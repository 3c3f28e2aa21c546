package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
)

// The way back without a daemon. `off --force` must take less than 2 s in all,
// of which offPatience may be spent on a daemon that hangs.
const (
	forcePatience  = 900 * time.Millisecond
	markerPatience = 250 * time.Millisecond // before the daemon is ended
	killPatience   = 300 * time.Millisecond
)

// rescue is what `off --force` does with its own hands.
type rescue struct {
	// permitted says why this process may not rewrite the kernel.
	permitted func() error
	// stateDir reads the daemon's state_dir from the kernel's table.
	stateDir func() (string, error)
	// include reads from there which file the daemon keeps for nftables.conf.
	include func() (string, error)
	// mark leaves word for the daemon's next start that a split, or all when
	// it is "", was forced off.
	mark func(dir, split string, request api.Request) error
	// holder finds the process that programs this host's kernel, also one that
	// has no control socket yet.
	holder func() (pid int, found bool)
	// kill ends the splitd of that pid and waits until it is gone.
	kill func(ctx context.Context, pid int) error
	// forceOff takes a split, or all when it is "", to its primary in the
	// kernel, and says what it changed.
	forceOff func(ctx context.Context, split string) ([]forced, error)
}

// forced is a split that was taken to its primary.
type forced struct {
	split             string
	generation        uint64
	previousPPM       int
	previousSamplePPM int
}

// forceOff goes the way back without the daemon's help. The word to the next
// daemon is left before this one is ended, because a supervisor may be quicker
// to start it than we are to rewrite the kernel. Where the kernel has nothing of
// splitd the word is all there is, and it fails without; else nothing but the
// kernel itself can make it fail.
func (o *offCommand) forceOff(ctx context.Context, split string, alive bool) error {
	if err := o.rescue.permitted(); err != nil {
		return fmt.Errorf("force off: %w: use sudo", err)
	}
	ctx, cancel := context.WithTimeout(ctx, forcePatience)
	defer cancel()
	if err := o.checkStateDir(ctx); err != nil {
		return err
	}
	var daemon peer
	if alive {
		daemon.pid, daemon.err = o.peerPID(ctx)
	} else {
		daemon.pid, alive = o.rescue.holder()
	}
	var left string // read after the word has come
	word := make(chan error, 1)
	go func() {
		dir, err := o.leaveWord(daemon.pid, split)
		left = dir
		word <- err
	}()
	early, stop := context.WithTimeout(ctx, markerPatience)
	err, done := receive(early, word)
	stop()
	ended := alive && o.endDaemon(ctx, daemon)
	// Late is better than never: the kernel is rewritten whatever time is left.
	changes, failed := o.rescue.forceOff(context.WithoutCancel(ctx), split)
	o.emptyIncludes(ctx)
	if !done {
		if err, done = receive(ctx, word); !done {
			err = errors.New("write forced marker: the disk does not answer")
		}
	}
	if err != nil && failed == nil && split == "" && len(changes) == 0 {
		return fmt.Errorf("force off: nothing of splitd is in the kernel, and nothing is recorded for the next start, which WOULD RESTORE the weights of mode proxy: %w", err)
	}
	if err != nil {
		o.warn("%v: the next start of splitd or of this host WOULD RESTORE the old weights: stop splitd, or run `splitctl off` again when it is up", err)
	}
	if failed == nil && split != "" && len(changes) == 0 {
		failed = fmt.Errorf("force off: the kernel has no split %q of splitd", split)
	}
	switch {
	case failed == nil:
		if err != nil {
			return o.printForced(split, changes, "")
		}
		return o.printForced(split, changes, left)
	case split != "" && err == nil:
		return marked(failed, ended)
	}
	return failed
}

// emptyIncludes empties what a dead daemon has left for nftables.conf to
// include: the next reload of a firewall would load the old weights.
func (o *offCommand) emptyIncludes(ctx context.Context) {
	for _, path := range o.includes() {
		emptied := make(chan error, 1)
		go func() { emptied <- emptyFile(path) }()
		err, done := receive(ctx, emptied)
		if !done {
			err = errors.New("the disk does not answer")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			o.warn("empty %q: %v: a reload of nftables.conf WOULD RESTORE the old weights: remove that file", path, err)
		}
	}
}

// includes are the files that may be a daemon's: as the kernel's table says,
// and beside every socket that it may have.
func (o *offCommand) includes() []string {
	var paths []string
	if path, err := o.rescue.include(); err == nil && path != "" {
		paths = append(paths, path)
	}
	for _, socket := range o.client(0).Paths() {
		paths = append(paths, filepath.Join(filepath.Dir(socket), netfilter.IncludeFile))
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// emptyFile follows no link, open(2): the directory may be another user's, who
// must not choose what root empties.
func emptyFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// marked adds what was done all the same: the split may be in proxy mode, which
// the kernel does not know.
func marked(err error, ended bool) error {
	how := ""
	if ended {
		how = "the daemon has been ended, and "
	}
	return fmt.Errorf("%w: %sa marker is left: its next start keeps the split off", err, how)
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

// peer is the process that holds the control socket.
type peer struct {
	pid int
	err error // why it is not known
}

func (o *offCommand) peerPID(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	return o.client(0).PeerPID(ctx)
}

// endDaemon ends the process that holds the control socket, and says whether
// it is gone. A stopped daemon must not wake up and put back what it remembers.
func (o *offCommand) endDaemon(ctx context.Context, daemon peer) bool {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	err := daemon.err
	if err == nil {
		err = o.rescue.kill(ctx, daemon.pid)
	}
	if err != nil {
		o.warn("%v: end the daemon by hand, or it may put its weights back", err)
		return false
	}
	o.say(fmt.Sprintf("splitctl: ended the daemon, process %d", daemon.pid))
	return true
}

// printForced prints what was changed; left is the directory of the word for the
// next start, "" when there is none.
func (o *offCommand) printForced(split string, all []forced, left string) error {
	list := api.ChangeList{Envelope: api.Of(api.KindChangeList), Items: []api.Change{}}
	for _, f := range all {
		list.Items = append(list.Items, api.Change{
			Envelope: api.Of(api.KindChange), Split: f.split, Changed: f.previousPPM > 0 || f.previousSamplePPM > 0,
			Generation: f.generation, PreviousPPM: f.previousPPM, PreviousSamplePPM: f.previousSamplePPM,
		})
	}
	switch {
	case len(list.Items) == 0:
		o.say(fmt.Sprintf("splitctl: nothing of splitd is in the kernel: no flow goes to a candidate through it; recorded in %q: the next start keeps all splits off", left))
	case split != "" && len(list.Items) == 1:
		return o.printChangeOf(o.output, list.Items[0], closed)
	}
	return o.printChanges(o.output, list)
}
