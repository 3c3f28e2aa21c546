package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// change is one step of the ledger, decided but not yet made. The zero change
// is none.
type change struct {
	next    *view
	records []state.Record // as they will be, removed ones among them
	entries []state.Entry
	raises  bool
	silent  bool // finds nothing to change and is nobody's last word, see Undo
	reach   reach
	// running is the definition that an apply makes the running one; nil
	// outside an apply.
	running *state.Running
	// shut are the attempts to reach who takes none any more, once it is enacted.
	shut attempts
}

// touched are the splits that the host must be able to carry for the change.
func (c change) touched() []traffic.Split {
	if c.reach == reachAll {
		return c.next.splits()
	}
	return c.next.of(c.records)
}

// onlyRaises says whether no candidate gets less than before, nor another
// definition.
func (c change) onlyRaises(before *view) bool {
	return c.reach != reachAll && !slices.ContainsFunc(c.records, func(r state.Record) bool {
		was, stood := before.records.find(r.Name)
		return stood && (r.Removed || holdingsOf(inForce(r)).raisedBy(inForce(was)))
	})
}

// reach says how far into the data planes a change goes.
type reach int

const (
	reachAll     reach = iota // definitions may differ
	reachWeights              // the weights of some splits: the short way
	reachNumber               // only who holds them, and for how long: the generation
)

// decision looks at the state of now and says what to change. It may be asked
// more than once and must not wait for a disk.
type decision func(now *view) (change, error)

// carry makes one change. Lowering is applied before it is recorded and waits
// neither for the disk nor for a raise that does; what went wrong there comes
// back as warnings. Raising goes the long way, see raise. Since is the count of
// lowered that the caller began with.
func (d *Daemon) carry(ctx context.Context, since uint64, decide decision) ([]string, error) {
	var c change
	var written, told ticket
	if !d.changing.TryLock() {
		control.Working(ctx) // on what came before it
		d.changing.Lock()
	}
	err := d.locked(func() (err error) {
		if c, err = decide(d.view.Load()); err != nil || c.raises {
			return err
		}
		if !c.silent {
			d.lowered.Add(1) // also when nothing changes: it was somebody's newer word
		}
		if c.next == nil {
			return nil
		}
		if len(c.records) > recordsMany {
			control.Working(ctx)
		}
		d.shadows.halt(c.records) // which needs no plane, and waits for none
		if err := d.enact(context.WithoutCancel(ctx), &c); err != nil {
			return errors.Join(err, d.retreat(ctx, c, nil).err)
		}
		written, told = d.recordLowering(c)
		return nil
	})
	switch {
	case err != nil || c.next == nil:
		return nil, err
	case c.raises:
		return d.raise(ctx, since, decide)
	}
	d.takeAttempts(c)
	return d.afterLowering(context.WithoutCancel(ctx), c, written, told), nil
}

// exclusively does fn under the change lock.
func (d *Daemon) exclusively(fn func() error) error {
	d.changing.Lock()
	return d.locked(fn)
}

// locked does fn and gives the change lock back.
func (d *Daemon) locked(fn func() error) error {
	defer d.changing.Unlock()
	return fn()
}

// enact puts a change into the data planes and, when that has worked, before
// the readers. What came while it was put there belongs to the generation
// before, so the counters are read again. Called under the change lock.
func (d *Daemon) enact(ctx context.Context, c *change) error {
	d.steps.Add(1) // odd: between two states
	defer d.steps.Add(1)
	if err := d.enter(ctx, *c); err != nil {
		return err
	}
	if !c.switchesManyOff() { // of those, recordMany notes them
		d.begun(ctx, c)
	}
	old := d.view.Load()
	d.see(c.next)
	if c.reach != reachNumber {
		c.shut = shut(old.of(c.records), c.next.of(c.records))
		d.tend.free(c.shut)
	}
	return nil
}

// see shows readers a view that is in force, and has what is shadowed follow it.
func (d *Daemon) see(v *view) {
	d.view.Store(v)
	d.shadows.follow(v)
}

// takeAttempts gives up the attempts of the relay to reach whom a change has shut:
// one of them might serve a client yet, after the command has returned. Those in
// the kernel are the tender's. Called without the change lock, for it waits for the
// relay's workers.
func (d *Daemon) takeAttempts(c change) { d.planes.relay.Free(c.shut) }

// enter puts a change into the data planes. Weights of a split that its plane
// does not have, because somebody flushed it, take the whole way, and so does the
// first sample of a split of the kernel.
func (d *Daemon) enter(ctx context.Context, c change) error {
	if c.reach != reachAll && !d.planes.wantsInlet(c.next.of(c.records)) {
		err := d.planes.setWeights(ctx, c.next.of(c.records))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, netfilter.ErrNotInKernel):
		case c.reach == reachNumber:
			d.log.Warn("the kernel does what it is to do, and has the number of an earlier generation", "error", err)
			return nil
		default:
			return err
		}
		d.log.Warn("kernel has lost the splits; all is applied again", "error", err)
	}
	if err := d.planes.apply(ctx, c.next.splits(), d.view.Load().splits(), c.next.paths); err != nil {
		return fmt.Errorf("apply configuration: %w", err)
	}
	return nil
}

// begun notes the flow counters of every record of a change.
func (d *Daemon) begun(ctx context.Context, c *change) {
	d.begin(ctx, c.records, c.next)
	there := slices.DeleteFunc(slices.Clone(c.records), func(r state.Record) bool { return r.Removed })
	if len(there) > 0 {
		c.next = c.next.with(there...)
	}
}

// begin notes the flow counters with which the generations of the records
// begin, so that the observed share speaks of these generations only.
func (d *Daemon) begin(ctx context.Context, records []state.Record, v *view) {
	var splits []traffic.Split
	for _, r := range records {
		if !r.Removed {
			split := inForce(r)
			split.Mode = v.modes[r.Name]
			splits = append(splits, split)
		}
	}
	if len(splits) == 0 {
		return
	}
	flows, err := d.planes.flows(ctx, splits)
	if err != nil {
		d.log.Warn("read flow counters", "splits", len(splits), "error", err)
		return
	}
	for i, r := range records {
		if !r.Removed {
			records[i].Baseline = flows[r.Name]
		}
	}
}

// beginOne is begin for one record.
func (d *Daemon) beginOne(ctx context.Context, record state.Record, v *view) state.Record {
	records := []state.Record{record}
	d.begin(ctx, records, v)
	return records[0]
}
