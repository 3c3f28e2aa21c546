package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// newPair is a world with the splits mx and web, both at 0.
func newPair(t *testing.T) *world {
	t.Helper()
	web := mx(0)
	web.Name = "web"
	return newWorld(t, mx(0), web)
}

// asks starts a change that will have to wait, and returns its outcome.
func asks(change func() error) <-chan error {
	outcome := make(chan error, 1)
	go func() { outcome <- change() }()
	return outcome
}

func (w *world) sets(d *Daemon, split string, weight traffic.Weight) func() error {
	return func() error {
		_, err := d.Set(w.t.Context(), control.Actor{User: "ann"}, split, api.SetRequest{WeightPPM: new(int(weight))})
		return err
	}
}

// off switches mx off.
func (w *world) off(d *Daemon) {
	w.t.Helper()
	if _, err := d.Off(w.t.Context(), control.Actor{User: "bob"}, "mx", api.Request{}); err != nil {
		w.t.Fatalf("off = %v", err)
	}
}

// endsAtNothing says that mx is at 0 in the kernel and, after a restart,
// everywhere.
func (w *world) endsAtNothing(d *Daemon) {
	w.t.Helper()
	if got := w.kernel.weight("mx"); got != 0 {
		w.t.Errorf("the kernel has %s, want nothing", got)
	}
	w.agrees(d)
	if got := w.kernel.weight("mx"); got != 0 {
		w.t.Errorf("after a restart the kernel has %s, want nothing", got)
	}
}

func TestAnOffThatChangesNothingStillBeatsARaiseThatWaits(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	answer := w.hang()
	raise := asks(w.sets(d, "mx", percent(50)))
	<-w.hanging
	w.off(d)
	answer()
	if err := <-raise; !isConflict(err) {
		t.Errorf("the raise = %v, want a conflict", err)
	}
	w.endsAtNothing(d)
}

func TestAnOffBeatsARaiseThatWasAskedForBeforeIt(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	asked := word{action: state.ActionSet, since: d.lowered.Load()} // waits behind another raise, say
	w.off(d)
	_, err := d.steer(t.Context(), asked, "mx", func(record state.Record, now time.Time) (traffic.Overrides, error) {
		return overlay(record, map[string]traffic.Weight{"new": percent(50)}, traffic.Override{Since: now}), nil
	})
	if !isConflict(err) {
		t.Errorf("the raise = %v, want a conflict", err)
	}
	w.endsAtNothing(d)
}

func TestAnOffBeatsAnUndoThatReadsTheHistory(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	for _, p := range []int{5, 1} {
		if err := w.sets(d, "mx", percent(p))(); err != nil {
			t.Fatal(err)
		}
	}
	answer := w.hang()
	undo := asks(func() error {
		_, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
		return err
	})
	<-w.hanging
	w.off(d)
	answer()
	if err := <-undo; !isConflict(err) {
		t.Errorf("the undo = %v, want a conflict", err)
	}
	w.endsAtNothing(d)
}

// undoesPastAnApply is a world in which an undo finds an apply that changed no
// weight first, and behind it an off that it would undo.
func undoesPastAnApply(t *testing.T) (*world, *Daemon) {
	t.Helper()
	w := newPair(t)
	d := w.mustBoot()
	if err := w.sets(d, "mx", percent(20))(); err != nil {
		t.Fatal(err)
	}
	w.off(d)
	w.files.Splits = slices.Clone(w.files.Splits)
	w.files.Splits[0].Health.Interval = time.Hour
	if answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil || !answer.Changed {
		t.Fatalf("apply = %+v, %v", answer, err)
	}
	return w, d
}

func TestAnUndoGoesBackBehindAnApplyThatChangedNoWeight(t *testing.T) {
	w, d := undoesPastAnApply(t)
	change, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
	if err != nil || w.kernel.weight("mx") != percent(20) {
		t.Errorf("undo = %+v, %v; the kernel has %s, want 20%%", change, err, w.kernel.weight("mx"))
	}
	w.agrees(d)
}

func TestAnUndoGoesBackBehindASetThatHasExpired(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	for _, request := range []api.SetRequest{
		{WeightPPM: new(int(percent(20)))}, {Default: true}, {WeightPPM: new(int(percent(30))), TTLSeconds: 8},
	} {
		if _, err := d.Set(t.Context(), control.Actor{}, "mx", request); err != nil {
			t.Fatal(err)
		}
	}
	w.now = w.now.Add(9 * time.Second)
	d.expireDue(t.Context())
	if got := w.kernel.weight("mx"); got != 0 {
		t.Fatalf("after the ttl the kernel has %s, want nothing", got)
	}
	if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil || w.kernel.weight("mx") != percent(20) {
		t.Errorf("undo = %v; the kernel has %s, want 20%%", err, w.kernel.weight("mx"))
	}
}

func TestAnOffBeatsAnUndoThatGoesFurtherBack(t *testing.T) {
	w, d := undoesPastAnApply(t)
	answer := w.hang()
	undo := asks(func() error {
		_, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
		return err
	})
	<-w.hanging // in the history
	w.off(d)
	answer()
	if err := <-undo; !isConflict(err) {
		t.Errorf("the undo = %v, want a conflict", err)
	}
	w.endsAtNothing(d)
}

func TestOffDoesNotWaitForWhatARaiseTellsTheWorld(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	journal := make(chan struct{})
	d.journal = func(...state.Entry) error { <-journal; return nil }
	raise := asks(w.sets(d, "mx", percent(50)))
	nettest.Eventually(t, "the raise is in force", func() bool { return d.view.Load().records.get("mx").Overrides != nil })
	w.off(d)
	select {
	case err := <-raise:
		t.Errorf("the raise has ended (%v): this test does not test", err)
	default:
	}
	close(journal)
	if err := <-raise; err != nil {
		t.Error(err)
	}
	if _, err := d.History(t.Context(), "", 1); err != nil || d.scribe.trouble() != nil {
		t.Errorf("the store is still in trouble when the disk answers: %v, %v", err, d.scribe.trouble())
	}
	w.endsAtNothing(d)
}

func TestARefusedRaiseDoesNotComeBackAtTheNextStart(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	w.kernel.fail = errors.New("kernel says no") // to the way back, too
	if err := w.sets(d, "mx", percent(50))(); !errors.Is(err, w.kernel.fail) {
		t.Fatalf("set = %v, want the kernel's refusal", err)
	}
	w.kernel.fail = nil
	w.endsAtNothing(d)
}

func TestARaiseWhoseCallerGoesWhileItIsRecordedIsTakenBack(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	answer := w.hang()
	ctx, leave := context.WithCancel(t.Context())
	raise := asks(func() error {
		_, err := d.Set(ctx, control.Actor{}, "mx", api.SetRequest{WeightPPM: new(500_000)})
		return err
	})
	<-w.hanging
	leave()
	if err := <-raise; err == nil {
		t.Error("the raise goes on without its caller")
	}
	answer()
	w.endsAtNothing(d)
}

func TestTheOrderOnDiskIsTheOrderInForce(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	for range 100 {
		if err := w.sets(d, "mx", percent(80))(); err != nil {
			t.Fatal(err)
		}
		lower := asks(w.sets(d, "mx", percent(40)))
		w.off(d)
		<-lower
		stored, err := d.scribe.records(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		view := d.view.Load().records.get("mx")
		if inForce(stored["mx"]).CandidateWeight() != inForce(view).CandidateWeight() || stored["mx"].Generation != view.Generation {
			t.Fatalf("the store has %s at %d, in force is %s at %d", inForce(stored["mx"]).CandidateWeight(), stored["mx"].Generation,
				inForce(view).CandidateWeight(), view.Generation)
		}
	}
	w.agrees(d)
}

func TestAnApplyThatTheDiskKeptWaitingLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newPair(t)
		d := w.mustBoot()
		w.disk.Store(new(make(chan struct{})))
		_, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{Name: "sent.yaml", Text: sent})
		if !errors.Is(err, errDisk) {
			t.Fatalf("apply on a hung disk = %v, want it refused", err)
		}
		answers := w.disk.Swap(nil)
		close(*answers)
		running, err := d.scribe.running(t.Context())
		if err != nil || running.Text != "" {
			t.Errorf("the refused text is the running definition: %q, %v", running.Text, err)
		}
		if d.view.Load().running.Text != "" || w.kernel.weight("mx") != 0 {
			t.Errorf("in force is %s of %q, want nothing of the refused text", w.kernel.weight("mx"), d.view.Load().running.Name)
		}
		w.agrees(d)
		_ = d.stop()
	})
}

// sent is what `apply -f` sends: mx with half of the flows for new.
const sent = `
splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates: [{name: new, addresses: [10.0.0.12], weight: 50%}]
`

func TestAGenerationIsGivenOnce(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	answer := w.hang()
	raise := asks(w.sets(d, "mx", percent(50))) // reserves generation 2
	<-w.hanging
	w.files.Splits = []traffic.Split{mx(0)}
	w.files.Splits[0].Protocol = "smtp" // a change that does not raise
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := w.kernel.splits["mx"].Generation; got <= 2 {
		t.Errorf("the apply has generation %d, which a raise that is being recorded has already", got)
	}
	answer()
	<-raise
	w.endsAtNothing(d)
}

func TestGenerationsOfRemovedSplitsOutliveALostStore(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	for _, p := range []int{1, 2, 3} {
		if err := w.sets(d, "web", percent(p))(); err != nil {
			t.Fatal(err)
		}
	}
	both := w.files.Splits
	w.files.Splits = both[:1]
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	w.locked = errors.New("locked by another process")
	d = w.mustBoot()
	w.locked = nil
	if err := w.sets(d, "mx", percent(1))(); err != nil {
		t.Fatal(err)
	}
	w.files.Splits = both
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := d.view.Load().records.get("web").Generation; got <= 5 {
		t.Errorf("the split that came back has generation %d, want one over 5", got)
	}
}

func TestWhatIsObservedSurvivesARestart(t *testing.T) {
	w := newPair(t)
	w.kernel.flows = map[string]uint64{"old": 100, "new": 100}
	d := w.mustBoot()
	w.agrees(d)
	d = w.mustBoot()
	stored, err := d.scribe.records(t.Context())
	if err != nil || stored["mx"].Baseline["old"] != 100 {
		t.Errorf("the store's baseline = %v, %v, want the counters with which the generation began", stored["mx"].Baseline, err)
	}
}

func TestAPanicInTheStoreReachesWhoAsked(t *testing.T) {
	s := newScribe(func() (Store, error) { return nil, errors.New("none") })
	defer func() {
		if r := recover(); r == nil || !strings.Contains(r.(string), "boom") {
			t.Errorf("recovered %v, want the job's panic", r)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	_ = s.submit(func() error { panic("boom") }).wait(t.Context(), time.Minute)
}
