package daemon

import (
	"cmp"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// unsaved is no edition.
const unsaved = math.MaxUint64

// shadowBudget is the memory of all shadows where the configuration has none.
const shadowBudget = 64 << 20

// shadows are the plays of the splits that are shadowed, or were.
type shadows struct {
	tee   *Tee
	stage Stage
	most  int64 // bytes that they may hold together
	mark  uint32
	log   *slog.Logger

	insiders insiders

	mu      sync.Mutex // guards what follows, never for longer than a play takes to make
	splits  map[string]*shadowed
	kept    map[string]keptReport // of splits that have no play
	follows uint64                // calls of follow
	shelved uint64                // reports of splits that are no more
	retired sync.WaitGroup        // plays that others have followed, until they have ended
	saving  atomic.Bool           // the disk has reports to write
}

// shadowed is the shadow of one split. It is changed under the lock of shadows;
// who reads it without gets a copy.
type shadowed struct {
	play     Play           // of before, where it cannot be played; nil: there was none
	fault    error          // why it cannot
	unplayed *atomic.Uint64 // flows that were sampled meanwhile
	inside   *insider       // of the play; nil: nothing is seen inside TLS
	gone     uint64         // since which call of follow its split is no more; 0: it is there
	latency  *metrics.Latency
	saved    *atomic.Uint64 // the edition that is on the disk
	resets   *atomic.Uint64 // how often it began anew: what was read before is not saved behind that
}

func newShadows(o Options) *shadows {
	s := &shadows{
		tee: o.Tee, stage: o.Stage, most: budgetOf(o.Config), mark: o.CheckMark, log: o.Log,
		splits: map[string]*shadowed{}, kept: map[string]keptReport{},
	}
	if s.tee == nil {
		s.tee = &Tee{}
	}
	s.insiders = newInsiders(o, s.markOf)
	return s
}

// budgetOf is the memory of all shadows of a configuration, in bytes.
func budgetOf(cfg configs.Config) int64 { return cmp.Or(cfg.Shadow.Budget, shadowBudget) }

// follow brings the plays to a view: a split that has a candidate to compare is
// played from its first sample on. At a sample of 0 its shadows end at once, and
// its report stays. So it does when the split is gone, should it come back. It
// waits for no flow and no disk, and may be called under the change lock.
func (s *shadows) follow(v *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.follows++
	changed := false
	for _, h := range v.records.held {
		if h.split.Shadow.To != "" || s.splits[h.record.Name] != nil {
			changed = s.one(v.split(h.record.Name)) || changed
		}
	}
	for name, one := range s.splits {
		switch {
		case v.records.has(name):
			one.gone = 0
			continue
		case one.gone == 0:
			one.gone = s.follows
		}
		if one.play != nil {
			one.play.Halt()
		}
	}
	for name, k := range s.kept {
		switch there := v.records.has(name); {
		case there:
			s.kept[name] = keptReport{text: k.text}
		case k.gone == 0:
			s.shelve(name, k.text)
		}
	}
	if changed {
		s.show()
	}
}

// halt ends the shadows of splits whose sample is to be 0: at once, also where a
// plane hangs. It waits for no flow. What it has ended follow begins again, should
// the change come to nothing.
func (s *shadows) halt(records []state.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		one := s.splits[r.Name]
		if one != nil && one.play != nil && (r.Removed || inForce(r).Sample == 0) {
			one.play.Halt()
		}
	}
}

// show has the relay find the plays of now; s.mu is held.
func (s *shadows) show() {
	plays := make(map[string]teed, len(s.splits))
	for name, one := range s.splits {
		if plays[name] = (teed{one.play, one.unplayed, one.inside}); one.fault != nil {
			plays[name] = teed{unplayed: one.unplayed}
		}
	}
	s.tee.plays.Store(&plays)
}

// one brings one split's play to its state, and says whether it is another one;
// s.mu is held.
func (s *shadows) one(split traffic.Split) (changed bool) {
	one := s.splits[split.Name]
	if one == nil {
		if split.Sample == 0 && s.kept[split.Name].text == nil {
			return false
		}
		one = &shadowed{latency: metrics.NewLatency(split.Name), unplayed: new(atomic.Uint64), saved: new(atomic.Uint64), resets: new(atomic.Uint64)}
		s.splits[split.Name] = one
	}
	before := one.fault
	if one.play == nil || !one.play.Follows(split) {
		changed = s.make(one, split)
	} else {
		one.fault = nil // of a definition that was taken back
	}
	changed = changed || (before == nil) != (one.fault == nil)
	switch {
	case one.fault != nil: // what was played by another definition is halted
	case split.Sample > 0 && split.Shadow.To == one.play.Split().Shadow.To:
		one.play.Begin()
	default:
		one.play.Halt()
	}
	return changed
}

// make makes the play of a split, in the place of another; s.mu is held.
func (s *shadows) make(one *shadowed, split traffic.Split) (changed bool) {
	if split.Shadow.TLS.On() {
		s.insiders.secretly() // before the process of shadows begins, which inherits it
	}
	before := one.play
	made, err := s.stage.Play(PlayOptions{
		Split: split, After: before, Kept: s.kept[split.Name].text, Mark: s.markOf(split),
		Observe: func(t play.Timed) {
			one.latency.Observe(traffic.RolePrimary, t.Primary.First, t.Primary.Total)
			one.latency.Observe(traffic.RoleCandidate, t.Candidate.First, t.Candidate.Total)
		},
	})
	if err != nil {
		if one.fault == nil || one.fault.Error() != err.Error() {
			s.log.Error("split is not shadowed", "split", split.Name, "error", err)
		}
		one.fault = err
		if before != nil {
			before.Halt()
		}
		return false
	}
	kept, had := s.kept[split.Name]
	if delete(s.kept, split.Name); had && kept.text == nil {
		s.log.Warn("report begins anew: the split was gone, and of such splits the newest reports alone are held", "split", split.Name, "bytes", goneMost)
	}
	one.play, one.fault = made, nil
	if before != nil || had {
		// It may count anew, in editions that the disk had once, or have left samples
		// that were not masked: the disk is to have no more than it has. A save under
		// way does not say that it does.
		one.saved = new(atomic.Uint64)
		one.saved.Store(unsaved)
	}
	if before != nil {
		before.Halt()
		s.retired.Go(before.Close)
	}
	outside := one.inside
	if one.inside = s.insiders.of(split, outside); one.inside != outside {
		s.retire(outside)
	}
	return true
}

// retire ends who has stood in for a service, if anybody has.
func (s *shadows) retire(i *insider) {
	if i != nil {
		i.stop()
		s.retired.Go(i.close)
	}
}

// reload has all files of certificates read again. It waits for none.
func (s *shadows) reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.splits {
		if one.inside != nil {
			one.inside.reload()
		}
	}
}

// markOf is the packet mark of connections to the servers of a split. As with health
// checks, its rules in the kernel leave those alone.
func (s *shadows) markOf(split traffic.Split) uint32 {
	if split.Mode == traffic.ModeKernel {
		return s.mark
	}
	return 0
}

// find returns the shadow of a split as it is now; nil when there has been none.
func (s *shadows) find(name string) *shadowed {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.splits[name]
	if one == nil {
		return nil
	}
	return new(*one)
}

// all are the shadows that there are, as they are now, by split.
func (s *shadows) all() map[string]shadowed {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]shadowed, len(s.splits))
	for name, one := range s.splits {
		all[name] = *one
	}
	return all
}

// forget forgets what is left of a split that is no more, and says whether there was
// anything.
func (s *shadows) forget(name string) (found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, found = s.kept[name]
	delete(s.kept, name)
	one := s.splits[name]
	if one == nil {
		return found
	}
	delete(s.splits, name)
	one.resets.Add(1)
	s.retire(one.inside)
	if one.play != nil {
		one.play.Halt()
		s.retired.Go(one.play.Close)
	}
	s.show()
	return true
}

// end ends all shadows, and returns when they have, or patience is over.
func (s *shadows) end(patience time.Duration) {
	s.mu.Lock()
	for _, one := range s.splits {
		s.retire(one.inside)
		if one.play != nil {
			one.play.Halt()
			s.retired.Go(one.play.End)
		}
	}
	s.mu.Unlock()
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.retired.Wait()
	}()
	select {
	case <-over:
	case <-time.After(patience):
		s.log.Warn("shadows do not end", "waited", patience)
	}
}
