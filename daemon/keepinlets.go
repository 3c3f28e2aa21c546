package daemon

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

const (
	// inletLook is how often inlets are looked at.
	inletLook = time.Second
	// inletRest is how long nothing of a split has been sampled before its inlet is
	// closed: what had been drawn before is on its way in yet.
	inletRest = 10 * time.Second
	// troubledFrom is how many attempts to reach a primary say something, and one in
	// troubledShare of all is more than chance. troubledWindow is how many flows are
	// looked at together.
	troubledFrom, troubledShare, troubledWindow = 3, 10, 200
	// A split whose sampled flows come to grief is not sampled for restFirst, and
	// twice as long each time, restMost at most.
	restFirst = time.Minute
	restMost  = time.Hour
)

// inletKeeper is what keepInlets remembers.
type inletKeeper struct {
	idle  map[string]time.Time // since when nothing of the split is sampled and no flow open
	since map[string]splitter.Inlet
	rests map[string]rest
}

// rest is for how long the sample of a split rests, or has rested last.
type rest struct {
	until time.Time
	last  time.Duration
}

func newInletKeeper() *inletKeeper {
	return &inletKeeper{idle: map[string]time.Time{}, since: map[string]splitter.Inlet{}, rests: map[string]rest{}}
}

// keepInlets closes those that nothing needs any more, and has splits rest whose
// sampled flows come to grief, until ctx ends. Then nothing is sampled any more: the
// kernel's rules outlive this process, and its relay does not.
func (d *Daemon) keepInlets(ctx context.Context) error {
	tick := time.NewTicker(inletLook)
	defer tick.Stop()
	k := newInletKeeper()
	for {
		select {
		case <-ctx.Done():
			d.endSampling(context.WithoutCancel(ctx))
			return nil
		case <-tick.C:
			d.lookAtInlets(ctx, k)
		}
	}
}

func (d *Daemon) lookAtInlets(ctx context.Context, k *inletKeeper) {
	if len(d.planes.sampled().ports) == 0 {
		return
	}
	inlets := d.planes.relay.Inlets()
	unsampled := d.unsampled()
	d.closeIdle(ctx, k.unused(d.now(), unsampled, inlets))
	for _, name := range slices.Sorted(maps.Keys(inlets)) {
		in := inlets[name]
		in.Full = in.Full && !slices.Contains(unsampled, name)
		switch k.judge(d.now(), name, in) {
		case judgedTroubled:
			d.restSample(ctx, name, fmt.Sprintf("sampled flows do not reach the primary, or not with their clients' addresses: its replies may take another way than through this host; nothing is sampled for %s", k.rests[name].last))
		case judgedFull:
			d.restSample(ctx, name, fmt.Sprintf("the relay has nearly all flows that it may (files or memory of splitd): nothing is sampled while that is so, and for %s at least; the primary's clients are served without it", k.rests[name].last))
		case judgedRested:
			d.restSample(ctx, name, "")
		case judgedWell:
		}
	}
}

// unsampled are the splits with an inlet of which nothing is to be sampled.
func (d *Daemon) unsampled() []string {
	v, s := d.view.Load(), d.planes.sampled()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.ports)), func(name string) bool {
		if !v.records.has(name) {
			return false
		}
		split := v.split(name)
		return split.Mode != traffic.ModeProxy && split.Sample > 0
	})
}

// unused are those of the splits whose inlets have had no open flow for long enough.
func (k *inletKeeper) unused(now time.Time, unsampled []string, inlets map[string]splitter.Inlet) (names []string) {
	maps.DeleteFunc(k.idle, func(name string, _ time.Time) bool {
		return !slices.Contains(unsampled, name) || inlets[name].Open > 0
	})
	for _, name := range unsampled {
		since, idle := k.idle[name]
		switch {
		case inlets[name].Open > 0:
		case !idle:
			k.idle[name] = now
		case now.Sub(since) >= inletRest:
			names = append(names, name)
		}
	}
	return names
}

// judgement is what becomes of the sample of a split.
type judgement int

const (
	judgedWell judgement = iota
	judgedTroubled
	judgedFull
	judgedRested
)

// judge looks at what an inlet has done since the window began that it is in. A relay
// that is nearly full has clients wait whom the kernel alone would serve, so their
// sample rests before it is, and until it is not.
func (k *inletKeeper) judge(now time.Time, name string, in splitter.Inlet) judgement {
	r := k.rests[name]
	if !r.until.IsZero() {
		if now.Before(r.until) || in.Full {
			return judgedWell
		}
		k.rests[name], k.since[name] = rest{last: r.last}, in
		return judgedRested
	}
	was := k.since[name]
	flows, trouble := in.Flows-was.Flows, in.Trouble-was.Trouble
	switch {
	case in.Flows < was.Flows || in.Trouble < was.Trouble || in.Short < was.Short: // it is another one
		k.since[name] = in
	case in.Full || in.Short > was.Short:
		k.restLonger(now, name)
		return judgedFull
	case trouble >= troubledFrom && trouble*troubledShare >= flows+trouble:
		k.restLonger(now, name)
		return judgedTroubled
	case flows >= troubledWindow:
		k.since[name] = in
		delete(k.rests, name)
	}
	return judgedWell
}

// restLonger has the sample of a split rest, for twice as long as the last time.
func (k *inletKeeper) restLonger(now time.Time, name string) {
	last := min(max(2*k.rests[name].last, restFirst), restMost)
	k.rests[name] = rest{until: now.Add(last), last: last}
}

// restSample has nothing of a split sampled, or as much as is in force again where
// there is no reason.
func (d *Daemon) restSample(ctx context.Context, name, reason string) {
	err := d.exclusively(func() error {
		d.planes.sampling.Store(d.planes.sampled().with(func(next *sampling) {
			delete(next.resting, name)
			if reason != "" {
				next.resting[name] = reason
			}
		}))
		v := d.view.Load()
		if !v.records.has(name) || v.modes[name] == traffic.ModeProxy {
			return nil
		}
		d.steps.Add(1)
		defer d.steps.Add(1)
		return d.planes.setWeights(ctx, []traffic.Split{v.split(name)})
	})
	switch {
	case err != nil:
		d.log.Warn("have the sample of a split rest, or begin again", "split", name, "error", err)
	case reason != "":
		d.log.Warn("sample rests", "split", name, "reason", reason)
	default:
		d.log.Info("sample is in force again", "split", name)
	}
}

// closeIdle closes inlets, unless something has come to be sampled meanwhile.
func (d *Daemon) closeIdle(ctx context.Context, names []string) {
	if len(names) == 0 {
		return
	}
	err := d.exclusively(func() error {
		unsampled := d.unsampled()
		names = slices.DeleteFunc(names, func(name string) bool { return !slices.Contains(unsampled, name) })
		if len(names) == 0 {
			return nil
		}
		before := d.planes.sampled()
		d.planes.sampling.Store(before.with(func(next *sampling) {
			for _, name := range names {
				delete(next.ports, name)
			}
		}))
		d.steps.Add(1)
		defer d.steps.Add(1)
		v := d.view.Load()
		if err := d.planes.apply(ctx, v.splits(), v.splits(), v.paths); err != nil {
			d.planes.sampling.Store(before)
			return err
		}
		d.planes.closeInlets(names)
		return nil
	})
	if err != nil {
		d.log.Warn("take away what sampled flows needed; tried again", "splits", someOf(names), "error", err)
		return
	}
	d.wakeInclude()
}

// endSampling has the kernel hand nothing over any more, so that the relay can end.
// What it has keeps its way.
func (d *Daemon) endSampling(ctx context.Context) {
	err := d.exclusively(func() error {
		v, s := d.view.Load(), d.planes.sampled()
		d.planes.sampling.Store(s.with(func(next *sampling) { next.ended = true }))
		splits := slices.DeleteFunc(v.splits(), func(split traffic.Split) bool {
			return split.Mode == traffic.ModeProxy || s.ports[split.Name] == 0 || s.of(split).Sample == 0
		})
		if len(splits) == 0 {
			return nil
		}
		d.steps.Add(1)
		defer d.steps.Add(1)
		return d.planes.setWeights(ctx, splits)
	})
	if err != nil {
		d.log.Warn("end the sample; flows go to the primary when the relay has ended", "error", err)
	}
}
