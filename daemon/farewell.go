package daemon

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// noticeEvery is how old the number of flows in the notice of an end may be.
const noticeEvery = time.Second

// farewell tells those who ask that this daemon is ending, until it has ended,
// and has the relay's flows cut off when a signal comes. Signalled says that the
// first of the signals is the one that ended it.
func (d *Daemon) farewell(ended <-chan struct{}, signalled bool) {
	notice, err := control.Notify(d.options.Config.Control.Socket)
	if err != nil {
		d.log.Debug("say that splitd is ending", "error", err)
	} else {
		defer func() { _ = notice.Close() }() // who reads it sees that nobody holds it
	}
	until := d.lastFlow()
	tick := time.NewTicker(noticeEvery)
	defer tick.Stop()
	for {
		if notice != nil {
			if err := notice.Say(d.ending(until)); err != nil {
				d.log.Debug("say that splitd is ending", "error", err)
			}
		}
		select {
		case <-ended:
			return
		case <-tick.C:
		case <-d.options.Signals:
			if signalled {
				signalled = false
				continue
			}
			d.options.Release()
			d.log.Warn("second signal: open flows of the relay are reset", "flows", d.planes.relay.Cut())
		}
	}
}

// ending is what the notice says now.
func (d *Daemon) ending(until *time.Time) api.Ending {
	v := d.view.Load()
	inKernel, _ := byMode(v.splits())
	e := api.Ending{PID: os.Getpid(), AsOf: d.now().UTC(), Until: until, Kernel: len(inKernel)+len(v.paths) > 0}
	for _, counts := range d.planes.relay.Counts() {
		if counts.Active != nil {
			e.Flows += int(*counts.Active)
		}
	}
	for _, in := range d.planes.relay.Inlets() {
		e.Flows += int(in.Open)
	}
	return e
}

// lastFlow is when the last flow of the relay is cut off at the latest; nil:
// some have no limit.
func (d *Daemon) lastFlow() *time.Time {
	longest, limited := d.drainTime()
	if !limited {
		return nil
	}
	return new(d.now().Add(longest).UTC())
}

// drainTime is the longest that flows of the relay may take to drain; false:
// there is no limit.
func (d *Daemon) drainTime() (longest time.Duration, limited bool) {
	return drainTime(d.view.Load().splits(), d.planes.sampled())
}

func drainTime(splits []traffic.Split, sampled *sampling) (longest time.Duration, limited bool) {
	for _, s := range splits {
		if s.Mode != traffic.ModeProxy && sampled.ports[s.Name] == 0 {
			continue
		}
		if s.Proxy.DrainTimeout == 0 {
			return 0, false
		}
		longest = max(longest, s.Proxy.DrainTimeout)
	}
	return longest, true
}

// explainStart adds to why a start failed that an earlier daemon, which is in
// its way, is ending.
func (d *Daemon) explainStart(err error) error {
	if !errors.Is(err, netfilter.ErrAnotherSplitd) && !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	e := d.before()
	if e == nil {
		return err
	}
	return fmt.Errorf("start: %s: meanwhile it is in the way: %w", e.Text(time.Local), err)
}

// before is a daemon that ends where this one starts; nil where there is none.
func (d *Daemon) before() *api.Ending {
	if e, ok := (&client.Client{Socket: d.options.Config.Control.Socket}).Ending(); ok {
		return &e
	}
	return nil
}

// tellOfBefore says that what this start lacks is an earlier daemon's yet.
func (d *Daemon) tellOfBefore() {
	if e := d.before(); e != nil {
		d.log.Warn("an earlier daemon has not ended yet", "note", e.Text(time.Local))
	}
}
