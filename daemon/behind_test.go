package daemon

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/traffic"
)

// moves applies the split mx in a mode, with its candidate and its service at
// addresses of their own.
func (w *world) moves(d *Daemon, mode traffic.Mode, service, candidate string) {
	w.t.Helper()
	s := mx(50_000)
	s.Mode = mode
	s.Service.Addresses = []netip.Addr{netip.MustParseAddr(service)}
	s.Candidates[0].Addresses = []traffic.Address{{IP: netip.MustParseAddr(candidate)}}
	w.files.Splits = []traffic.Split{s}
	if _, err := d.Apply(w.t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		w.t.Fatal(err)
	}
}

// active is how many flows of the candidate status tells of.
func (w *world) active(d *Daemon) uint64 {
	w.t.Helper()
	if got := w.backend(d, 1).FlowsActive; got != nil {
		return *got
	}
	return 0
}

// A split that moved into the relay leaves flows in the kernel: who stops a host
// on `wait --for=drained` must know of them, whatever else has moved with it.
func TestADrainEndsWhatIsLeftInTheKernelOfASplitThatHasMovedToTheRelay(t *testing.T) {
	for name, to := range map[string]struct{ service, candidate string }{
		"the mode alone":            {"192.0.2.25", "10.0.0.12"},
		"the candidate's address":   {"192.0.2.25", "10.0.0.99"},
		"the service's address too": {"192.0.2.99", "10.0.0.99"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, mx(50_000))
			d := w.mustBoot()
			w.crowded(7)
			w.moves(d, traffic.ModeProxy, to.service, to.candidate)
			w.crowdedRelay(2)
			if got := w.active(d); got != 9 {
				t.Errorf("%d flows of the candidate are open, want 2 of the relay and 7 from before", got)
			}
			change, err := w.drain(d, api.DrainRequest{Kill: true})
			if err != nil || change.Ended == nil || *change.Ended != 9 || len(w.kernel.open) > 0 || len(w.relay.open) > 0 {
				t.Errorf("drain --kill: %+v, %v; %d flows are left in the kernel, %d in the relay", change, err, len(w.kernel.open), len(w.relay.open))
			}
			if got := w.active(d); got != 0 {
				t.Errorf("after it %d flows are open", got)
			}
			w.crowded(1) // of somebody else, who has the address now: the kernel's are over
			if got := w.active(d); got != 0 {
				t.Errorf("when all had ended %d are told as open", got)
			}
		})
	}
}

func TestWhatIsLeftOfEveryMoveToTheRelayIsKnown(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	w.crowded(2)
	w.moves(d, traffic.ModeProxy, "192.0.2.25", "10.0.0.13")
	w.moves(d, traffic.ModeKernel, "192.0.2.25", "10.0.0.13")
	w.crowded(3)
	w.moves(d, traffic.ModeProxy, "192.0.2.25", "10.0.0.14")
	if got := w.active(d); got != 5 {
		t.Errorf("%d flows of the candidate are open, want 2 of the first time in the kernel and 3 of the second", got)
	}
	if change, err := w.drain(d, api.DrainRequest{Kill: true}); err != nil || *change.Ended != 5 {
		t.Errorf("drain --kill: %+v, %v, want 5 flows ended", change, err)
	}
}

func TestASplitThatMovesToAndFroLeavesOneDefinitionBehind(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	w.crowded(4)
	for range 5 {
		w.moves(d, traffic.ModeProxy, "192.0.2.25", "10.0.0.12")
		w.moves(d, traffic.ModeKernel, "192.0.2.25", "10.0.0.12")
	}
	w.moves(d, traffic.ModeProxy, "192.0.2.25", "10.0.0.12")
	if got, n := w.active(d), len(d.planes.behind.of(d.view.Load().splits())); got != 4 || n != 1 {
		t.Errorf("%d flows are open by %d definitions, want 4 by one", got, n)
	}
}

func TestWhoMovesAwayAndBackWhileSomebodyLooksIsNotForgotten(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	w.moves(d, traffic.ModeProxy, "192.0.2.25", "10.0.0.12")
	w.kernel.meanwhile = func() {
		w.moves(d, traffic.ModeKernel, "192.0.2.25", "10.0.0.12")
		w.crowded(3)
		w.moves(d, traffic.ModeProxy, "192.0.2.25", "10.0.0.12")
	}
	_ = w.active(d)
	if got := w.active(d); got != 3 {
		t.Errorf("%d flows are open, want the 3 that began meanwhile", got)
	}
}

func TestAttemptsLeftInTheKernelAreFreedWhenTheCandidateIsShut(t *testing.T) {
	for name, shut := range map[string]func(w *world, d *Daemon){
		"set 0%": func(w *world, d *Daemon) { _, _ = w.set(d, 0) },
		"off":    func(w *world, d *Daemon) { w.off(d) },
		"drain":  func(w *world, d *Daemon) { _, _ = w.drain(d, api.DrainRequest{}) },
		"down": func(_ *world, d *Daemon) {
			next := d.planes.found.Load().copy()
			next.set("mx", map[health.Key]bool{{Split: "mx", Backend: "new", Address: new4}: true})
			d.planes.found.Store(next)
			d.tend.free(attempts{ofNew: {new4}})
		},
	} {
		w := newWorld(t, mx(50_000))
		d := w.mustBoot()
		w.moves(d, traffic.ModeProxy, "192.0.2.25", "10.0.0.12")
		shut(w, d)                                                 // what it refuses frees nothing
		w.kernel.freeErr = errors.New("no buffer space available") // which is tried again
		d.freeAttempts(t.Context())
		w.kernel.freeErr = nil
		if d.freeAttempts(t.Context()); !slices.Contains(w.kernel.freedSoFar(), ofNew) {
			t.Errorf("%s: freed are %v", name, w.kernel.freed)
		}
	}
}
