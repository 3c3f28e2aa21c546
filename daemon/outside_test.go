package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// proxied is mx in mode proxy.
func proxied(weight traffic.Weight) traffic.Split {
	s := mx(weight)
	s.Mode = traffic.ModeProxy
	return s
}

// lose takes files out of the state directory.
func (w *world) lose(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// spoil makes a file of the state directory one that nobody can read.
func (w *world) spoil(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(strings.Repeat("what is this? ", 4096)), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

func TestASplitOfTheRelayKeepsWhatWasInForceThoughItsStoreIsLost(t *testing.T) {
	for name, tt := range map[string]struct {
		lose   func(*world)
		want   traffic.Weight // of one that was switched off, and of one that was set to 20%
		wasSet traffic.Weight
		reason string
	}{
		"nothing is lost":                 {func(*world) {}, 0, percent(20), ""},
		"the store":                       {func(w *world) { w.lose(storeFile) }, 0, percent(20), reasonSaved},
		"the store, to garbage":           {func(w *world) { w.spoil(storeFile) }, 0, percent(20), reasonSaved},
		"the store, to what is no splitd": {func(w *world) { w.locked = errors.New("locked") }, 0, percent(20), reasonSaved},
		"store and snapshot":              {func(w *world) { w.lose(storeFile, snapshotFile) }, 0, 0, reasonLost},
		"both to garbage":                 {func(w *world) { w.spoil(storeFile, snapshotFile) }, 0, 0, reasonLost},
		"store, and snapshot spoilt":      {func(w *world) { w.lose(storeFile); w.spoil(snapshotFile) }, 0, 0, reasonLost},
		"all there was":                   {func(w *world) { w.lose(storeFile, snapshotFile, journalFile) }, percent(50), percent(50), ""},
	} {
		t.Run(name, func(t *testing.T) {
			web := proxied(percent(50))
			web.Name = "web"
			w := newWorld(t, proxied(percent(50)), web)
			d := w.mustBoot()
			w.spoil(journalFile) // what is in it nobody reads
			if _, err := d.Off(t.Context(), control.Actor{User: "bob"}, "mx", api.Request{}); err != nil {
				t.Fatal(err)
			}
			if err := w.sets(d, "web", percent(20))(); err != nil {
				t.Fatal(err)
			}
			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
			tt.lose(w)
			d = w.mustBoot()
			list, err := d.Splits(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range []traffic.Weight{tt.want, tt.wasSet} {
				item := list.Items[i]
				drawn := w.relay.splits[i]
				if item.WeightPPM != int(want) || drawn.CandidateWeight() != want {
					t.Errorf("%s has %d ppm, and the relay draws %s, want %s", item.Name, item.WeightPPM, drawn.CandidateWeight(), want)
				}
				if want == 0 && !drawn.Candidates[0].Closed {
					t.Errorf("%s is at 0%% and open: its groups would go to the candidate", item.Name)
				}
				if tt.reason != "" && item.Origin.Reason != tt.reason {
					t.Errorf("%s says %q of its weight's origin, want %q", item.Name, item.Origin.Reason, tt.reason)
				}
			}
		})
	}
}

func TestASplitThatIsNewBesideALostStoreHasItsFilesWeight(t *testing.T) {
	w := newWorld(t, proxied(percent(50)))
	_ = w.mustBoot().stop()
	w.lose(storeFile)
	web := proxied(percent(10))
	web.Name = "web"
	w.files.Splits = append(w.files.Splits, web)
	d := w.mustBoot()
	if got := d.view.Load().split("web").CandidateWeight(); got != percent(10) {
		t.Errorf("web has %s, want the 10%% of its file: it was never there before", got)
	}
}

// The disk of the store may be full where a line of the snapshot has room.
func TestALoweringOfTheRelayThatWasNotRecordedIsKept(t *testing.T) {
	w := newWorld(t, proxied(percent(50)))
	d := w.mustBoot()
	w.diskFull = true
	change, err := w.set(d, percent(5))
	if err != nil || len(change.Warnings) == 0 {
		t.Fatalf("set on a full disk = %+v, %v", change, err)
	}
	_ = d.stop()
	w.diskFull = false
	d = w.mustBoot()
	if got := d.view.Load().split("mx"); got.CandidateWeight() != percent(5) || got.Generation != 2 {
		t.Errorf("after a restart mx has %s at generation %d, want 5%% at 2", got.CandidateWeight(), got.Generation)
	}
}

func TestWhatIsClosedForWantOfAStoreCanBeOpened(t *testing.T) {
	w := newWorld(t, proxied(percent(50)))
	_ = w.mustBoot().stop()
	w.lose(storeFile)
	w.spoil(snapshotFile)
	d := w.mustBoot()
	if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{Default: true}); err != nil {
		t.Fatal(err)
	}
	if got := w.relay.mx(); got.CandidateWeight() != percent(50) || got.Candidates[0].Closed {
		t.Errorf("set default leaves %s, closed %v", got.CandidateWeight(), got.Candidates[0].Closed)
	}
}

// Else its rules would split on, beside the relay.
func TestASplitThatHasLeftTheKernelIsTakenOutOfItWithoutAStore(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := w.set(d, percent(20)); err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	w.lose(storeFile)
	w.files.Splits = []traffic.Split{proxied(0)}
	w.mustBoot()
	if got := w.relay.mx().CandidateWeight(); got != percent(20) || len(w.kernel.splits) != 0 {
		t.Errorf("the relay draws %s, want 20%%; the kernel has %d splits, want none", got, len(w.kernel.splits))
	}
}

func TestTheKernelIsBelievedBeforeWhatWasSaved(t *testing.T) {
	saved := savedState(mx(percent(50)))
	kernel := netfilter.SplitState{Generation: 1, Weights: map[string]traffic.Weight{"new": 0}}
	both := outside{kernel: map[string]netfilter.SplitState{"mx": kernel}, saved: map[string]netfilter.SplitState{"mx": saved}}
	if got := both.of("mx"); got.Weights["new"] != 0 || got.reason != reasonAdopted {
		t.Errorf("of = %+v, want what the kernel does", got)
	}
}

// After a reboot without `splitd restore`.
func TestASplitOfAnEmptiedKernelIsNotRaisedOverWhatWasSaved(t *testing.T) {
	w := newWorld(t, mx(percent(50)))
	d := w.mustBoot()
	w.off(d)
	_ = d.stop()
	w.lose(storeFile)
	clear(w.kernel.splits)
	w.mustBoot()
	if got := w.kernel.weight("mx"); got != 0 {
		t.Errorf("mx has %s, want it off as it was", got)
	}
}
