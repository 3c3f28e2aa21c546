package daemon

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// TestKernelStoreAndViewAgreeWhereverTheDaemonDies makes each kind of change
// die at each of its steps, starts again, and compares.
func TestKernelStoreAndViewAgreeWhereverTheDaemonDies(t *testing.T) {
	changes := map[string]func(w *world, d *Daemon) error{
		"raise": func(w *world, d *Daemon) error { _, err := w.set(d, percent(50)); return err },
		"lower": func(w *world, d *Daemon) error { _, err := w.set(d, percent(1)); return err },
		"off": func(w *world, d *Daemon) error {
			_, err := d.Off(w.t.Context(), control.Actor{}, "mx", api.Request{})
			return err
		},
		"shadow more": func(w *world, d *Daemon) error { _, err := w.shadow(d, percent(50)); return err },
		"shadow less": func(w *world, d *Daemon) error { _, err := w.shadow(d, percent(1)); return err },
		"undo": func(w *world, d *Daemon) error {
			_, err := d.Undo(w.t.Context(), control.Actor{}, "mx", api.Request{})
			return err
		},
		"apply": func(w *world, d *Daemon) error {
			w.files.Splits = []traffic.Split{mx(percent(30))}
			_, err := d.Apply(w.t.Context(), control.Actor{}, api.ApplyRequest{})
			return err
		},
		"remove": func(w *world, d *Daemon) error {
			w.files.Splits = nil
			_, err := d.Apply(w.t.Context(), control.Actor{}, api.ApplyRequest{})
			return err
		},
	}
	for name, change := range changes {
		for step := 1; ; step++ {
			died := false
			t.Run(fmt.Sprintf("%s at step %d", name, step), func(t *testing.T) { died = diesAt(t, step, change) })
			if !died {
				if step < 3 {
					t.Errorf("%s has only %d steps: the fuse is in the wrong place", name, step-1)
				}
				break
			}
		}
	}
}

// diesAt says whether the change was still under way at that step.
func diesAt(t *testing.T, step int, change func(*world, *Daemon) error) (died bool) {
	shadowed := mx(0)
	shadowed.Sample = percent(10)
	w := newWorld(t, shadowed)
	d := w.mustBoot()
	if _, err := w.set(d, percent(5)); err != nil {
		t.Fatal(err)
	}
	w.fuse.left.Store(int64(step))
	func() {
		defer func() {
			if r := recover(); r != nil {
				if _, ok := r.(crash); !ok {
					panic(r)
				}
				died = true
			}
		}()
		if err := change(w, d); err != nil {
			t.Fatal(err)
		}
	}()
	w.fuse.left.Store(0)
	w.agrees(d)
	return died
}

// agrees starts the daemon anew, twice, and compares what it says with kernel
// and store.
func (w *world) agrees(dead *Daemon) {
	w.t.Helper()
	_ = dead.scribe.close() // the lock ends with the process
	var before string
	for range 2 {
		d := w.mustBoot()
		r := d.read(w.t.Context())
		if len(r.drift) > 0 {
			w.t.Errorf("the kernel differs: %v", r.drift)
		}
		stored, err := d.scribe.records(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, name := range r.view.names() {
			record := r.view.records.get(name)
			is, has := inForce(record), inForce(stored[name])
			if has.Generation != is.Generation || has.CandidateWeight() != is.CandidateWeight() || has.Sample != is.Sample {
				w.t.Errorf("the store has %+v, the view %+v", stored[name], record)
			}
		}
		now := fmt.Sprintf("%s %v %s", r.view.summary(), r.view.records.get("mx").Generation, r.view.split("mx").Sample)
		if before != "" && now != before {
			w.t.Errorf("a second start changed %q to %q", before, now)
		}
		before = now
		if err := d.stop(); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestAStartThatFailsGivesUpWhatItPreparedInTheKernel(t *testing.T) {
	split := mx(0)
	split.Mode, split.Proxy.Transparent = traffic.ModeProxy, true
	w := newWorld(t, split)
	w.relay.fail = errors.New("another program holds the address")
	if _, err := w.boot(); !errors.Is(err, w.relay.fail) {
		t.Fatalf("start = %v, want the relay's refusal", err)
	}
	if w.kernel.abandoned != 1 {
		t.Errorf("what was prepared was given up %d times, want once", w.kernel.abandoned)
	}
}

func TestARaiseThatThePlaneRefusesIsTakenBack(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.kernel.fail = errors.New("kernel says no")
	if _, err := w.set(d, percent(5)); err == nil || !strings.Contains(err.Error(), "kernel says no") {
		t.Fatalf("set = %v, want the kernel's refusal", err)
	}
	w.kernel.fail = nil
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil { // mends what could not be put back
		t.Fatal(err)
	}
	list, err := d.Splits(t.Context(), "mx")
	if err != nil || list.Items[0].WeightPPM != 0 || !list.Items[0].Kernel.Synced() {
		t.Errorf("status = %+v, %v, want 0 and in sync", list.Items, err)
	}
	if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err == nil {
		t.Error("undo finds something to undo in a change that never came into force")
	}
	w.agrees(d)
}

func TestRaisingNeedsTheDiskAndLoweringDoesNot(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := w.set(d, percent(50)); err != nil {
		t.Fatal(err)
	}
	w.diskFull = true
	if _, err := w.set(d, percent(60)); !errors.Is(err, errDiskFull) {
		t.Errorf("raising on a full disk = %v, want it refused", err)
	}
	if got := w.kernel.splits["mx"].CandidateWeight(); got != percent(50) {
		t.Errorf("the kernel has %s, want 50%%", got)
	}
	change, err := w.set(d, percent(10))
	if err != nil || !change.Changed || len(change.Warnings) == 0 {
		t.Errorf("lowering on a full disk = %+v, %v, want it done with a warning", change, err)
	}
	if change, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil || change.WeightPPM != 0 {
		t.Errorf("off on a full disk = %+v, %v, want it done", change, err)
	}
}

func TestAFirstStartWithAFullDiskRaisesNothing(t *testing.T) {
	w := newWorld(t, mx(percent(50)))
	w.diskFull = true
	w.mustBoot()
	if got := w.kernel.splits["mx"].CandidateWeight(); got != 0 {
		t.Errorf("the kernel has %s, want 0%%: the raise was not recorded", got)
	}
}

func TestABadReloadChangesNothing(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := w.set(d, percent(5)); err != nil {
		t.Fatal(err)
	}
	w.badFile = errors.New("mx.yaml:1:1: nonsense")
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err == nil {
		t.Error("a bad file is taken")
	}
	if d.lastReload().OK {
		t.Error("the metric says that the reload was good")
	}
	if got := w.kernel.splits["mx"].CandidateWeight(); got != percent(5) {
		t.Errorf("the kernel has %s, want 5%%", got)
	}
}

func TestAHostThatCannotCarryASplitRefusesStartAndReload(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.kernel.refuse = errors.New("ip_forward is off: sysctl -w net.ipv4.ip_forward=1")
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); !errors.Is(err, w.kernel.refuse) {
		t.Errorf("apply = %v, want the host's refusal", err)
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.boot(); !errors.Is(err, w.kernel.refuse) {
		t.Errorf("start = %v, want the host's refusal", err)
	}
}

func TestAPinnedSplitRefusesSetAndTakesOff(t *testing.T) {
	pinned := mx(percent(5))
	pinned.Pinned = true
	w := newWorld(t, pinned)
	d := w.mustBoot()
	_, err := w.set(d, percent(50))
	if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Code != api.CodeConflict {
		t.Errorf("set of a pinned split = %v, want a conflict", err)
	}
	if _, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil || w.kernel.splits["mx"].CandidateWeight() != 0 {
		t.Errorf("off of a pinned split = %v, kernel %s", err, w.kernel.splits["mx"].CandidateWeight())
	}
	if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{Default: true}); err != nil || w.kernel.splits["mx"].CandidateWeight() != percent(5) {
		t.Errorf("set default = %v, kernel %s, want the file's 5%%", err, w.kernel.splits["mx"].CandidateWeight())
	}
}

func TestAnEndedOverrideGivesWayToTheFile(t *testing.T) {
	w := newWorld(t, mx(percent(5)))
	d := w.mustBoot()
	if _, err := d.Set(t.Context(), control.Actor{User: "ann"}, "mx", api.SetRequest{WeightPPM: new(500_000), TTLSeconds: 60}); err != nil {
		t.Fatal(err)
	}
	if next := d.expireDue(t.Context()); !next.Equal(noon.Add(time.Minute)) {
		t.Errorf("the next expiry is %v, want a minute after noon", next)
	}
	w.now = noon.Add(time.Minute)
	if next := d.expireDue(t.Context()); !next.IsZero() {
		t.Error("something is left to expire")
	}
	if got := w.kernel.splits["mx"].CandidateWeight(); got != percent(5) {
		t.Errorf("after the ttl the kernel has %s, want the file's 5%%", got)
	}
}

func TestUndoGoesFurtherBackEachTimeUntilNothingIsLeft(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	for _, p := range []int{5, 25, 50} {
		if _, err := w.set(d, percent(p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{25, 5, 0} {
		change, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
		if err != nil || change.WeightPPM != int(percent(want)) {
			t.Errorf("undo = %+v, %v, want %d%%", change, err, want)
		}
	}
	if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err == nil {
		t.Error("undo of nothing succeeds")
	}
}

func TestAStaleGenerationIsAConflict(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	_, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{WeightPPM: new(1), Request: api.Request{ExpectGeneration: new(uint64(9))}})
	if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Code != api.CodeConflict {
		t.Errorf("set at a stale generation = %v, want a conflict", err)
	}
}

// Who raises with the generation that he has seen is refused when somebody said
// meanwhile that nothing is to be raised, though no weight changed by that.
func TestEachChangeIsAGenerationAlsoWhereNoWeightChanges(t *testing.T) {
	w := newWorld(t, mx(percent(5)))
	d := w.mustBoot()
	at := func() uint64 { return uint64(d.view.Load().records.get("mx").Generation) }
	ctx, who := t.Context(), control.Actor{User: "ops"}
	steps := []struct {
		name    string
		change  func() (api.Change, error)
		changes bool
	}{
		{"set to 0", func() (api.Change, error) { return w.set(d, 0) }, true},
		{"drain by a time", func() (api.Change, error) {
			return d.Drain(ctx, who, "mx", api.DrainRequest{Backend: "new", KillAfterSeconds: 60})
		}, true},
		{"drain by another time", func() (api.Change, error) {
			return d.Drain(ctx, who, "mx", api.DrainRequest{Backend: "new", KillAfterSeconds: 90})
		}, true},
		{"off", func() (api.Change, error) { return d.Off(ctx, who, "mx", api.Request{}) }, true},
		{"off again", func() (api.Change, error) { return d.Off(ctx, who, "mx", api.Request{}) }, false},
		{"undo", func() (api.Change, error) { return d.Undo(ctx, who, "mx", api.Request{}) }, true},
	}
	for _, s := range steps {
		seen := at()
		change, err := s.change()
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		want := seen
		if s.changes {
			want++
		}
		if change.Changed != s.changes || at() != want || change.Generation != want {
			t.Errorf("%s: changed %v, generation %d, told %d, want %v and %d", s.name, change.Changed, at(), change.Generation, s.changes, want)
		}
		if s.changes {
			_, err = d.Set(ctx, control.Actor{}, "mx", api.SetRequest{WeightPPM: new(100_000), Request: api.Request{ExpectGeneration: new(seen)}})
			if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Code != api.CodeConflict {
				t.Fatalf("%s: a set at the generation before = %v, want a conflict", s.name, err)
			}
		}
	}
	w.agrees(d)
}

func TestAPlaneThatRefusesANumberKeepsNobodyFromOff(t *testing.T) {
	w := newWorld(t, mx(percent(5)))
	d := w.mustBoot()
	if _, err := d.Drain(t.Context(), control.Actor{}, "mx", api.DrainRequest{Backend: "new", KillAfterSeconds: 60}); err != nil {
		t.Fatal(err)
	}
	w.kernel.fail = errors.New("kernel says no")
	if _, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
		t.Fatalf("off where all is at 0: %v", err)
	}
	if list, err := d.Splits(t.Context(), "mx"); err != nil || list.Items[0].Kernel.Synced() {
		t.Errorf("status = %+v, %v, want one that is not in sync", list.Items, err)
	}
	w.kernel.fail = nil
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	w.agrees(d)
}
