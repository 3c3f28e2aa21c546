package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// grouped is a split with a group that always goes to the candidate.
func grouped() traffic.Split {
	s := mx(50_000)
	s.Candidates[0].Clients.Always = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	return s
}

// crowded gives the candidate of the files so many open flows.
func (w *world) crowded(n int) {
	s := w.files.Splits[0]
	for range n {
		w.kernel.open = append(w.kernel.open, netfilter.OpenFlow{
			BackendKey: ofNew,
			Client:     netip.AddrPortFrom(netip.MustParseAddr("203.0.113.7"), uint16(1000+len(w.kernel.open))),
			Service:    netip.AddrPortFrom(s.Service.Addresses[0], 25),
			Server:     netip.AddrPortFrom(s.Candidates[0].Addresses[0].IP, 25),
		})
	}
}

func (w *world) drain(d *Daemon, request api.DrainRequest) (api.Change, error) {
	request.Backend = "new"
	return d.Drain(w.t.Context(), control.Actor{User: "ann"}, "mx", request)
}

func (w *world) closed() bool { return w.kernel.splits["mx"].Candidates[0].Closed }

func TestADrainClosesTheCandidateToItsGroupsUntilItIsUndone(t *testing.T) {
	for name, reopen := range map[string]func(w *world, d *Daemon) error{
		"undo": func(w *world, d *Daemon) error {
			_, err := d.Undo(w.t.Context(), control.Actor{}, "mx", api.Request{})
			return err
		},
		"set":       func(w *world, d *Daemon) error { _, err := w.set(d, 10_000); return err },
		"set to 0%": func(w *world, d *Daemon) error { _, err := w.set(d, 0); return err },
		"set default": func(w *world, d *Daemon) error {
			_, err := d.Set(w.t.Context(), control.Actor{}, "mx", api.SetRequest{Default: true})
			return err
		},
	} {
		w := newWorld(t, grouped())
		d := w.mustBoot()
		change, err := w.drain(d, api.DrainRequest{})
		if err != nil || !change.Changed || change.WeightPPM != 0 || !w.closed() {
			t.Fatalf("%s: drain: %+v, %v, closed %v", name, change, err, w.closed())
		}
		if again, err := w.drain(d, api.DrainRequest{}); err != nil || again.Changed {
			t.Errorf("%s: a second drain: %+v, %v", name, again, err)
		}
		if err := reopen(w, d); err != nil || w.closed() {
			t.Errorf("%s: %v, closed %v", name, err, w.closed())
		}
		history, err := d.History(t.Context(), "mx", 0)
		if err != nil || history.Items[1].Action != "drain" || history.Items[0].Generation != history.Items[1].Generation+1 {
			t.Errorf("%s: history %+v, %v", name, history.Items, err)
		}
	}
}

// One undo takes back one command, and says what is left of the one before.
func TestAnUndoOfADrainsPaceSaysThatTheDrainIsStillThere(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	for _, rate := range []float64{0, 20, 5} {
		if _, err := w.drain(d, api.DrainRequest{RatePerSecond: rate}); err != nil {
			t.Fatal(err)
		}
	}
	var told []string
	for range 3 {
		change, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
		if err != nil || !change.Changed {
			t.Fatalf("undo: %+v, %v", change, err)
		}
		told = append(told, fmt.Sprint(change.WeightPPM, change.Warnings))
	}
	want := []string{
		"0 [\"new\" is drained as before the newest `drain` of it, 20 of its open flows a second are ended again: undo again, or set a weight, to open it]",
		"0 [\"new\" is drained as before the newest `drain` of it, its open flows are left alone now: undo again, or set a weight, to open it]",
		"50000 []",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("weight and warnings (-want +got):\n%s", diff)
	}
}

func TestOffClosesTheGroupsTooAndSetToZeroDoesNot(t *testing.T) {
	w := newWorld(t, grouped())
	d := w.mustBoot()
	if _, err := w.set(d, 0); err != nil || w.closed() {
		t.Errorf("set 0%%: %v, closed %v", err, w.closed())
	}
	if _, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil || !w.closed() {
		t.Errorf("off: %v, closed %v", err, w.closed())
	}
	if change, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil || change.Changed {
		t.Errorf("off again: %+v, %v", change, err)
	}
	if _, err := w.set(d, 0); err != nil || w.closed() {
		t.Errorf("set 0%% after off: %v, closed %v", err, w.closed())
	}
}

func TestADrainIsInForceWithTheDiskFullAndAfterACrash(t *testing.T) {
	w := newWorld(t, grouped())
	d := w.mustBoot()
	w.diskFull = true
	change, err := w.drain(d, api.DrainRequest{})
	if err != nil || !w.closed() || len(change.Warnings) == 0 {
		t.Fatalf("drain: %+v, %v, closed %v", change, err, w.closed())
	}
	_ = d.stop()
	w.diskFull = false
	w.mustBoot()
	if !w.closed() {
		t.Error("a restart opens what was drained")
	}
}

func TestWhatCannotBeDrainedIsRefused(t *testing.T) {
	w := newWorld(t, grouped())
	d := w.mustBoot()
	for backend, want := range map[string]string{
		"old":  `drain "mx": "old" is its primary, which takes what the candidates leave: raise a candidate instead`,
		"none": `drain "mx": it has no candidate "none": its candidates are "new"`,
	} {
		_, err := d.Drain(t.Context(), control.Actor{}, "mx", api.DrainRequest{Backend: backend})
		if fmt.Sprint(err) != want {
			t.Errorf("%s: %v, want %s", backend, err, want)
		}
	}
}

func TestAttemptsToWhoTakesNoFlowsAreFreedAtOnce(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	if _, err := w.set(d, 40_000); err != nil {
		t.Fatal(err)
	}
	d.freeAttempts(t.Context())
	if len(w.kernel.freed) != 0 {
		t.Errorf("a lower weight frees %v", w.kernel.freed)
	}
	if _, err := w.set(d, 0); err != nil {
		t.Fatal(err)
	}
	d.freeAttempts(t.Context())
	if diff := cmp.Diff([]traffic.BackendKey{{Split: "mx", Backend: "new"}}, w.kernel.freed); diff != "" {
		t.Errorf("freed after set 0%% (-want +got):\n%s", diff)
	}
}

func TestAttemptsThatCannotBeFreedAreFreedLater(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	if _, err := w.set(d, 0); err != nil {
		t.Fatal(err)
	}
	w.kernel.freeErr = errors.New("no buffer space available")
	last := time.Duration(0)
	for range 3 {
		rest, again := d.freeAttempts(t.Context())
		if !again || rest <= last {
			t.Fatalf("after a failure: again %v, in %v; before in %v", again, rest, last)
		}
		last = rest
	}
	w.kernel.freeErr = nil
	if _, again := d.freeAttempts(t.Context()); again || len(w.kernel.freed) != 1 {
		t.Errorf("afterwards: again %v, freed %v", again, w.kernel.freed)
	}
	if _, again := d.freeAttempts(t.Context()); again || len(w.kernel.freed) != 1 {
		t.Errorf("once more: again %v, freed %v", again, w.kernel.freed)
	}
}

func TestAttemptsAreNotFreedLateOnceTheCandidateTakesFlowsAgain(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	if _, err := w.set(d, 0); err != nil {
		t.Fatal(err)
	}
	w.kernel.freeErr = errors.New("no buffer space available")
	d.freeAttempts(t.Context())
	w.kernel.freeErr = nil
	if _, err := w.set(d, 10_000); err != nil {
		t.Fatal(err)
	}
	if _, again := d.freeAttempts(t.Context()); again || len(w.kernel.freed) != 0 {
		t.Errorf("again %v, freed %v", again, w.kernel.freed)
	}
}

func TestAttemptsOfBeforeARaiseAreNotFreedAfterIt(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	for _, weight := range []traffic.Weight{0, 10_000} {
		if _, err := w.set(d, weight); err != nil {
			t.Fatal(err)
		}
	}
	if d.freeAttempts(t.Context()); len(w.kernel.freed) != 0 {
		t.Errorf("freed %v, which takes flows again", w.kernel.freed)
	}
}

// Whatever else the tender is woken by at that moment.
func TestAttemptsAreFreedAfterEveryChangeWhileTheTenderIsBusy(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	w.background(d.tendFlows)
	w.background(func(ctx context.Context) error {
		for ctx.Err() == nil {
			d.tend.poke()
		}
		return nil
	})
	for n := range 100 {
		for _, weight := range []traffic.Weight{10_000, 0} {
			if _, err := w.set(d, weight); err != nil {
				t.Fatal(err)
			}
		}
		nettest.Eventually(t, "the attempts are freed", func() bool { return len(w.kernel.freedSoFar()) == n+1 })
	}
}

func TestWhoCannotFreeAttemptsGivesUpWhenTheyAreForgottenAnyhow(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	if _, err := w.set(d, 0); err != nil {
		t.Fatal(err)
	}
	w.kernel.freeErr = errors.New("no buffer space available")
	tries, waited := 0, time.Duration(0)
	for again := true; again; tries++ {
		var rest time.Duration
		if rest, again = d.freeAttempts(t.Context()); again {
			waited += rest
		}
	}
	if tries < 5 || tries > 15 || waited < 2*time.Minute {
		t.Errorf("%d tries in %v", tries, waited)
	}
}

func TestAPaceHasItsRateInTheMeanAndNoBeat(t *testing.T) {
	for _, rate := range []float64{0.5, 20, 1000} {
		flows, took, draws := 0, time.Duration(0), 0
		for ; draws < 1000; draws++ {
			n, rest := pace(rate, func() float64 { return float64(draws%100) / 100 })
			flows += n
			took += rest
		}
		if got := float64(flows) / took.Seconds(); got < 0.95*rate || got > 1.06*rate {
			t.Errorf("%v flows a second are wanted, %v are ended", rate, got)
		}
	}
}

func TestWhoEndsFlowsIsToldWhereTheirClientsWouldHang(t *testing.T) {
	for name, do := range map[string]func(w *world, d *Daemon) (api.Change, error){
		"drain --kill": func(w *world, d *Daemon) (api.Change, error) { return w.drain(d, api.DrainRequest{Kill: true}) },
		"drain --kill=30s": func(w *world, d *Daemon) (api.Change, error) {
			return w.drain(d, api.DrainRequest{KillAfterSeconds: 30})
		},
		"drain --rate": func(w *world, d *Daemon) (api.Change, error) { return w.drain(d, api.DrainRequest{RatePerSecond: 20}) },
		"set 0% --kill": func(w *world, d *Daemon) (api.Change, error) {
			return d.Set(w.t.Context(), control.Actor{}, "mx", api.SetRequest{WeightPPM: new(0), Kill: true})
		},
		"drain": func(w *world, d *Daemon) (api.Change, error) { return w.drain(d, api.DrainRequest{}) },
	} {
		for _, strict := range []bool{false, true} {
			w := newWorld(t, mx(50_000))
			w.kernel.strict = strict
			change, err := do(w, w.mustBoot())
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			told := slices.ContainsFunc(change.Warnings, func(s string) bool { return strings.Contains(s, "nf_conntrack_tcp_loose is 0") })
			if want := strict && name != "drain"; told != want {
				t.Errorf("%s, strict %v: warnings %q", name, strict, change.Warnings)
			}
		}
	}
}
