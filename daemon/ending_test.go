package daemon

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// inEachPlane runs a test of what is the same in both: open is how many flows
// the candidate has, crowd gives it more.
func inEachPlane(t *testing.T, test func(t *testing.T, w *world, crowd func(int), open func() int)) {
	for _, mode := range []traffic.Mode{traffic.ModeKernel, traffic.ModeProxy} {
		t.Run(string(mode), func(t *testing.T) {
			s := mx(50_000)
			s.Mode = mode
			w := newWorld(t, s)
			if mode == traffic.ModeKernel {
				test(t, w, w.crowded, func() int { return len(w.kernel.open) })
			} else {
				test(t, w, w.crowdedRelay, func() int { return len(w.relay.open) })
			}
		})
	}
}

// crowdedRelay gives the candidate so many open flows of the relay.
func (w *world) crowdedRelay(n int) {
	for range n {
		w.relay.open = append(w.relay.open, splitter.OpenFlow{BackendKey: ofNew})
	}
}

var ofNew = traffic.BackendKey{Split: "mx", Backend: "new"}

// tick lets the tender end what is due for so long.
func (w *world) tick(d *Daemon, long time.Duration) {
	d.options.Rand = func() float64 { return 0.5 }
	for end := w.now.Add(long); w.now.Before(end); {
		rest, busy := d.endDue(w.t.Context())
		if rest = max(rest, time.Millisecond); !busy || w.now.Add(rest).After(end) {
			rest = end.Sub(w.now)
		}
		w.now = w.now.Add(rest)
	}
	d.endDue(w.t.Context())
}

// drainOf is what status tells of the candidate's drain.
func (w *world) drainOf(d *Daemon) *api.Drain {
	w.t.Helper()
	list, err := d.Splits(w.t.Context(), "mx")
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items[0].Backends[1].Drain
}

// ends are the numbers of flows that the history has as ended, newest first.
func (w *world) ends(d *Daemon) (ended []int) {
	w.t.Helper()
	history, err := d.History(w.t.Context(), "mx", 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range history.Items {
		if e.Action == "end" {
			ended = append(ended, e.Ended)
		}
	}
	return ended
}

func TestKillEndsTheOpenFlowsAndTheHistoryHasHowMany(t *testing.T) {
	inEachPlane(t, func(t *testing.T, w *world, crowd func(int), open func() int) {
		d := w.mustBoot()
		crowd(5)
		change, err := w.drain(d, api.DrainRequest{Kill: true})
		if err != nil || change.Ended == nil || *change.Ended != 5 || open() != 0 {
			t.Errorf("drain --kill: %+v, %v, %d open", change, err, open())
		}
		if drain := w.drainOf(d); drain == nil || drain.Ended != 5 {
			t.Errorf("status tells %+v, want 5 flows ended", drain)
		}
		crowd(3)
		change, err = d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{WeightPPM: new(0), Kill: true})
		if err != nil || change.Ended == nil || *change.Ended != 3 || open() != 0 {
			t.Errorf("set 0%% --kill: %+v, %v, %d open", change, err, open())
		}
		if diff := cmp.Diff([]int{3, 5}, w.ends(d)); diff != "" {
			t.Errorf("ended by the history (-want +got):\n%s", diff)
		}
		if undone, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil || !undone.Changed || w.drainOf(d) == nil {
			t.Errorf("undo takes back %+v, %v; want the set", undone, err)
		}
	})
}

// Or one of them might serve its client yet, behind a wait for drained.
func TestTheAttemptsOfWhoIsShutAreTakenFromItWhenTheCommandReturns(t *testing.T) {
	for name, shut := range map[string]func(w *world, d *Daemon){
		"drain":        func(w *world, d *Daemon) { _, _ = w.drain(d, api.DrainRequest{}) },
		"drain --kill": func(w *world, d *Daemon) { _, _ = w.drain(d, api.DrainRequest{Kill: true}) },
		"off":          func(w *world, d *Daemon) { w.off(d) },
		"off --all": func(w *world, d *Daemon) {
			_, _ = d.OffAll(w.t.Context(), control.Actor{}, api.Request{})
		},
		"set 0%": func(w *world, d *Daemon) {
			_, _ = d.Set(w.t.Context(), control.Actor{}, "mx", api.SetRequest{Weights: map[string]int{"new": 0}})
		},
		"set b, which takes the share": func(w *world, d *Daemon) {
			_, _ = d.Set(w.t.Context(), control.Actor{}, "mx", api.SetRequest{Weights: map[string]int{"new": 0, "b": 50_000}})
		},
	} {
		s := twoCandidates(50_000, 0)
		s.Mode = traffic.ModeProxy
		w := newWorld(t, s)
		d := w.mustBoot()
		shut(w, d) // what it refuses frees nothing
		if !slices.Contains(w.relay.freed, ofNew) {
			t.Errorf("%s: freed are %v", name, w.relay.freed)
		}
	}
}

func TestWhatAnOlderDrainStillEndsIsNotTheNewerDrains(t *testing.T) {
	tend := newTender()
	tend.count(ofNew, noon, 3)
	tend.count(ofNew, noon.Add(time.Minute), 2)
	tend.count(ofNew, noon, 1)        // of a step that had begun before
	tend.count(ofNew, time.Time{}, 4) // by set 0% --kill
	if got := []uint64{tend.endedBy(ofNew, noon.Add(time.Minute)), tend.endedAll(ofNew)}; !slices.Equal(got, []uint64{2, 10}) {
		t.Errorf("ended by the drain and in all: %d, want 2 and 10", got)
	}
}

// An undo brings the earlier drain back, with what it has ended.
func TestADrainThatAnUndoBringsBackGoesOnCounting(t *testing.T) {
	inEachPlane(t, func(t *testing.T, w *world, crowd func(int), open func() int) {
		d := w.mustBoot()
		crowd(100)
		for _, rate := range []float64{2, 5} {
			if _, err := w.drain(d, api.DrainRequest{RatePerSecond: rate}); err != nil {
				t.Fatal(err)
			}
			w.tick(d, 4*time.Second)
		}
		first := open()
		if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
			t.Fatal(err)
		}
		w.tick(d, 10*time.Second)
		ended := uint64(first - open())
		if drain := w.drainOf(d); ended == 0 || drain == nil || drain.Ended < ended || drain.Ended > ended+10 {
			t.Errorf("status tells %+v, want the %d flows that it ended since the undo and those of before", drain, ended)
		}
	})
}

func TestWhatOldDrainsHaveEndedIsForgottenAtLast(t *testing.T) {
	tend := newTender()
	for i := range 10 * drainsKept {
		tend.count(ofNew, noon.Add(time.Duration(i+1)*time.Minute), 1)
		tend.count(ofNew, noon, 1) // which an undo has brought back
	}
	if got := tend.endedBy(ofNew, noon); got != 10*drainsKept {
		t.Errorf("the drain in force has ended %d, want all %d of it", got, 10*drainsKept)
	}
	if n := len(tend.ended[ofNew].drains); n > drainsKept {
		t.Errorf("%d drains of one candidate are remembered", n)
	}
}

func TestTheRelaysAttemptsToWhoTakesNoFlowsAreFreed(t *testing.T) {
	s := mx(50_000)
	s.Mode = traffic.ModeProxy
	w := newWorld(t, s)
	d := w.mustBoot()
	if _, err := w.set(d, 40_000); err != nil {
		t.Fatal(err)
	}
	if d.freeAttempts(t.Context()); len(w.relay.freed) != 0 {
		t.Errorf("a lower weight frees %v", w.relay.freed)
	}
	if _, err := w.set(d, 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]traffic.BackendKey{ofNew}, w.relay.freed); diff != "" || len(w.kernel.freed) != 0 {
		t.Errorf("freed after set 0%%, in the kernel %v (-want +got):\n%s", w.kernel.freed, diff)
	}
}

// A split that moved into the kernel leaves flows in the relay.
func TestFlowsThatTheRelayHasFromBeforeAreCountedAndEndedToo(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	w.crowded(2)
	w.crowdedRelay(3)
	change, err := w.drain(d, api.DrainRequest{Kill: true})
	if err != nil || *change.Ended != 5 || len(w.kernel.open)+len(w.relay.open) != 0 {
		t.Errorf("drain --kill: %+v, %v, open in the kernel %d, in the relay %d", change, err, len(w.kernel.open), len(w.relay.open))
	}
}

// The pace survives a restart, and ends with the drain.
func TestAPacedDrainGoesOnAfterARestartUntilItIsUndone(t *testing.T) {
	inEachPlane(t, func(t *testing.T, w *world, crowd func(int), open func() int) {
		d := w.mustBoot()
		crowd(100)
		if _, err := w.drain(d, api.DrainRequest{RatePerSecond: 20}); err != nil {
			t.Fatal(err)
		}
		w.tick(d, 2*time.Second)
		if left := open(); left < 55 || left > 65 {
			t.Errorf("%d flows are left of 100 after 2 s at 20 a second, want 60 or so", left)
		}
		if drain := w.drainOf(d); drain == nil || drain.RatePerSecond != 20 || drain.Ended < 35 {
			t.Errorf("status tells %+v", drain)
		}
		_ = d.stop()
		d = w.mustBoot()
		w.tick(d, 2*time.Second)
		left := open()
		if left > 25 {
			t.Errorf("%d flows are left after 4 s with a restart between, want 20 or so", left)
		}
		if _, err := w.set(d, 0); err != nil {
			t.Fatal(err)
		}
		if _, busy := d.endDue(t.Context()); busy || open() != left {
			t.Errorf("after a set the pace goes on: %v, %d of %d left", busy, open(), left)
		}
	})
}

// The time is the drain's: a restart in between changes nothing.
func TestADrainWithATimeEndsWhatIsLeftThenAlsoAfterARestart(t *testing.T) {
	inEachPlane(t, func(t *testing.T, w *world, crowd func(int), open func() int) {
		d := w.mustBoot()
		crowd(7)
		if _, err := w.drain(d, api.DrainRequest{KillAfterSeconds: 30}); err != nil {
			t.Fatal(err)
		}
		if drain := w.drainOf(d); drain == nil || drain.KillAt == nil || !drain.KillAt.Equal(noon.Add(30*time.Second)) {
			t.Errorf("status tells %+v, want the time", drain)
		}
		w.tick(d, 20*time.Second)
		if open() != 7 {
			t.Errorf("after 20 s %d flows are open, want all 7", open())
		}
		_ = d.stop()
		d = w.mustBoot()
		w.tick(d, 9*time.Second)
		if open() != 7 {
			t.Errorf("after 29 s with a restart between %d flows are open, want all 7", open())
		}
		w.tick(d, 2*time.Second)
		if open() != 0 {
			t.Errorf("after 31 s %d flows are open", open())
		}
		if drain := w.drainOf(d); drain == nil || drain.Ended != 7 {
			t.Errorf("status tells %+v, want 7 flows ended", drain)
		}
		if diff := cmp.Diff([]int{7}, w.ends(d)); diff != "" {
			t.Errorf("ended by the history (-want +got):\n%s", diff)
		}
		if _, busy := d.endDue(t.Context()); busy {
			t.Error("the tender is busy with a drain that is over")
		}
	})
}

func TestADrainsTimeIsForgottenWithTheDrain(t *testing.T) {
	for name, forget := range map[string]func(w *world, d *Daemon) error{
		"set": func(w *world, d *Daemon) error { _, err := w.set(d, 0); return err },
		"undo": func(w *world, d *Daemon) error {
			_, err := d.Undo(w.t.Context(), control.Actor{}, "mx", api.Request{})
			return err
		},
		"a drain without": func(w *world, d *Daemon) error { _, err := w.drain(d, api.DrainRequest{}); return err },
		"a later one": func(w *world, d *Daemon) error {
			w.now = w.now.Add(time.Second)
			_, err := w.drain(d, api.DrainRequest{KillAfterSeconds: 3600})
			return err
		},
	} {
		w := newWorld(t, mx(50_000))
		d := w.mustBoot()
		w.crowded(3)
		if _, err := w.drain(d, api.DrainRequest{KillAfterSeconds: 30}); err != nil {
			t.Fatal(err)
		}
		w.tick(d, 10*time.Second)
		if err := forget(w, d); err != nil {
			t.Fatal(err)
		}
		if w.tick(d, time.Minute); len(w.kernel.open) != 3 {
			t.Errorf("%s: %d flows are open, want all 3", name, len(w.kernel.open))
		}
	}
}

func TestADrainCanEndSomeAtAPaceAndTheRestAtItsTime(t *testing.T) {
	inEachPlane(t, func(t *testing.T, w *world, crowd func(int), open func() int) {
		d := w.mustBoot()
		crowd(100)
		if _, err := w.drain(d, api.DrainRequest{RatePerSecond: 2, KillAfterSeconds: 10}); err != nil {
			t.Fatal(err)
		}
		if w.tick(d, 9*time.Second); open() < 75 || open() > 85 {
			t.Errorf("after 9 s at 2 a second %d of 100 flows are open, want 82 or so", open())
		}
		if w.tick(d, 2*time.Second); open() != 0 {
			t.Errorf("after its time %d flows are open", open())
		}
	})
}

func TestFlowsThatCannotBeEndedAtTheirTimeAreEndedLater(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	w.crowded(3)
	if _, err := w.drain(d, api.DrainRequest{KillAfterSeconds: 30}); err != nil {
		t.Fatal(err)
	}
	w.kernel.countErr = errors.New("no buffer space available")
	w.tick(d, 31*time.Second)
	if len(w.kernel.open) != 3 {
		t.Fatalf("%d flows are open, want all 3", len(w.kernel.open))
	}
	w.kernel.countErr = nil
	if w.tick(d, 10*time.Second); len(w.kernel.open) != 0 {
		t.Errorf("%d flows are open", len(w.kernel.open))
	}
}

// A time to end flows is its drain's. Whoever takes the drain away, or makes
// another of it, has taken the time, too: nobody's flows end out of the blue.
func TestTheTimeOfADrainIsForgottenWithIt(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, w *world, d *Daemon){
		"off": func(_ *testing.T, w *world, d *Daemon) { w.off(d) },
		"drain without it": func(t *testing.T, w *world, d *Daemon) {
			if _, err := w.drain(d, api.DrainRequest{}); err != nil {
				t.Fatal(err)
			}
		},
		"set": func(t *testing.T, w *world, d *Daemon) {
			if _, err := w.set(d, 10_000); err != nil {
				t.Fatal(err)
			}
		},
		"undo": func(t *testing.T, _ *world, d *Daemon) {
			if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
				t.Fatal(err)
			}
		},
		"a removal from the file and back": func(t *testing.T, w *world, d *Daemon) {
			was := w.files.Splits
			for _, splits := range [][]traffic.Split{nil, was} {
				w.files.Splits = splits
				if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inEachPlane(t, func(t *testing.T, w *world, crowd func(int), open func() int) {
				d := w.mustBoot()
				if _, err := w.drain(d, api.DrainRequest{KillAfterSeconds: 30}); err != nil {
					t.Fatal(err)
				}
				w.now = w.now.Add(time.Second)
				do(t, w, d)
				crowd(7)
				w.tick(d, time.Minute)
				if n := open(); n != 7 {
					t.Errorf("a minute later %d of 7 flows are open", n)
				}
			})
		})
	}
}

// Undone, a raise brings the drain back that it has ended, but not a time of it
// that has passed.
func TestAnUndoBringsNoTimeOfADrainBackThatHasPassed(t *testing.T) {
	inEachPlane(t, func(t *testing.T, w *world, crowd func(int), open func() int) {
		d := w.mustBoot()
		if _, err := w.drain(d, api.DrainRequest{KillAfterSeconds: 30}); err != nil {
			t.Fatal(err)
		}
		w.tick(d, time.Minute)
		if _, err := w.set(d, 500_000); err != nil {
			t.Fatal(err)
		}
		w.tick(d, time.Second)
		crowd(7)
		if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
			t.Fatal(err)
		}
		w.tick(d, time.Minute)
		if n := open(); n != 7 {
			t.Errorf("of 7 flows that came while the candidate had a weight %d are open", n)
		}
		if drain := w.drainOf(d); drain == nil || drain.KillAt != nil {
			t.Errorf("status tells of the drain %+v, want one without a time", drain)
		}
	})
}
