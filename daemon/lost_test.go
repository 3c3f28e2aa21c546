package daemon

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
)

// withJournal has the daemon keep the real one, as start does.
func (w *world) withJournal(d *Daemon) {
	w.t.Helper()
	journal, err := state.OpenJournal(filepath.Join(w.dir, journalFile))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = journal.Close() })
	d.journal = journal.Append
}

// sequences are the numbers in history.jsonl; 0 is none.
func (w *world) sequences() (all []uint64) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, journalFile))
	if err != nil {
		w.t.Fatal(err)
	}
	for row := range strings.Lines(string(text)) {
		var line struct{ Sequence uint64 }
		if err := json.Unmarshal([]byte(row), &line); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, line.Sequence)
	}
	return all
}

// warned are the warnings of status, and whether the metrics call the store well.
func (w *world) warned(d *Daemon) (string, bool) {
	w.t.Helper()
	list, err := d.Splits(w.t.Context(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(list.Warnings, "\n"), d.Sample(w.t.Context()).StoreOK
}

func TestAStoreThatIsTakenFromALivingDaemonIsMissedAndMadeAnew(t *testing.T) {
	for name, tt := range map[string]struct {
		take   func(*world)
		notice func(*world, *Daemon)
	}{
		"removed, seen by the watch": {func(w *world) { w.lose(storeFile) }, func(_ *world, d *Daemon) {
			_ = d.scribe.submit(d.scribe.look).wait(t.Context(), raisePatience)
		}},
		"removed, seen by a reader": {func(w *world) { w.lose(storeFile) }, func(_ *world, d *Daemon) {
			_, _ = d.History(t.Context(), "mx", 1)
			_, _ = d.History(t.Context(), "mx", 1) // which makes a new one: it has nothing
		}},
		"removed with its directory": {func(w *world) {
			if err := os.RemoveAll(w.dir); err != nil {
				t.Fatal(err)
			}
		}, func(_ *world, d *Daemon) { _ = d.scribe.submit(d.scribe.look).wait(t.Context(), raisePatience) }},
		"replaced": {func(w *world) {
			store, err := state.Open(filepath.Join(w.dir, "other.db"))
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(w.dir, "other.db"), filepath.Join(w.dir, storeFile)); err != nil {
				t.Fatal(err)
			}
		}, func(_ *world, d *Daemon) { _ = d.scribe.submit(d.scribe.look).wait(t.Context(), raisePatience) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, mx(0))
			w.dir = filepath.Join(w.dir, "state")
			d := w.mustBoot()
			for _, weight := range []int{20, 10} {
				if _, err := w.set(d, percent(weight)); err != nil {
					t.Fatal(err)
				}
			}
			tt.take(w)
			tt.notice(w, d)
			if warned, ok := w.warned(d); ok || !strings.Contains(warned, "removed or replaced by another program") {
				t.Errorf("with the store gone status warns %q, and the metrics call it well: %v", warned, ok)
			}
			change, err := w.set(d, percent(5))
			if err != nil || !strings.Contains(strings.Join(change.Warnings, "\n"), "not recorded") {
				t.Errorf("lowering without the store = %+v, %v, want it done, with a warning", change, err)
			}
			if _, err := w.set(d, percent(30)); err != nil {
				t.Fatalf("raising = %v, want a new store made", err)
			}
			if warned, ok := w.warned(d); !ok || strings.Contains(warned, "program") {
				t.Errorf("with a new store status warns %q, and the metrics call it well: %v", warned, ok)
			}
			w.agrees(d)
		})
	}
}

// Nobody has seen that it is gone when somebody raises.
func TestARaiseFindsThatTheStoreIsGone(t *testing.T) {
	w := newWorld(t, mx(0), proxied(0))
	w.files.Splits[1].Name = "web"
	d := w.mustBoot()
	w.lose(storeFile)
	if _, err := w.set(d, percent(30)); err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	store, err := state.Open(filepath.Join(w.dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	records, err := store.Records()
	if err != nil || len(records) != 2 || inForce(records["mx"]).CandidateWeight() != percent(30) {
		t.Errorf("the new store has %d records, mx with %s, error %v; want all that is in force", len(records), inForce(records["mx"]).CandidateWeight(), err)
	}
}

func TestTheNumbersOfTheHistoryGoOnBesideANewStore(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.withJournal(d)
	for _, weight := range []int{20, 10} {
		if _, err := w.set(d, percent(weight)); err != nil {
			t.Fatal(err)
		}
	}
	w.lose(storeFile)
	if _, err := w.set(d, percent(30)); err != nil { // in the life of the daemon
		t.Fatal(err)
	}
	_ = d.stop()
	w.lose(storeFile)
	d = w.mustBoot() // and at its start
	w.withJournal(d)
	if _, err := w.set(d, percent(40)); err != nil {
		t.Fatal(err)
	}
	got := w.sequences()
	// The start's 1 came before this journal. 4 and 6 are in the store alone: what
	// was in force, when it was new.
	if diff := cmp.Diff([]uint64{2, 3, 5, 7}, got); diff != "" {
		t.Errorf("the numbers in history.jsonl (-want +got):\n%s", diff)
	}
}

// What is told of a start without a store is what came of it.
func TestAStartWithoutAStoreTellsNoWeightThatIsNotInForce(t *testing.T) {
	var log strings.Builder
	w := newWorld(t, mx(percent(50)))
	w.spoil(storeFile)
	d, err := w.bootWith(func(d *Daemon) {
		d.log = slog.New(slog.NewTextHandler(&log, nil))
		w.withJournal(d)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.stop() }()
	if strings.Contains(log.String(), "weight=50%") || !strings.Contains(log.String(), "weight=0%") {
		t.Errorf("the log says\n%s\nwant what is in force, 0%%", log.String())
	}
	list, err := d.Splits(t.Context(), "mx")
	if err != nil {
		t.Fatal(err)
	}
	if o := list.Items[0].Origin; list.Items[0].WeightPPM != 0 || o.Actor != "splitd" || !strings.Contains(o.Reason, "store") {
		t.Errorf("status has %d ppm of origin %+v, want 0 because of the store", list.Items[0].WeightPPM, o)
	}
	text, err := os.ReadFile(filepath.Join(w.dir, journalFile))
	if err != nil || strings.Contains(string(text), `"sequence"`) || !strings.Contains(string(text), `"weight_ppm":0`) {
		t.Errorf("history.jsonl has %s, %v; want a weight of 0 and no number: none was given", text, err)
	}
}

func TestAnOffWithoutAStoreOutlivesTheDaemon(t *testing.T) {
	w := newWorld(t, proxied(percent(50)))
	d := w.mustBoot()
	w.lose(storeFile)
	if _, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	d = w.mustBoot()
	if got := d.view.Load().split("mx").CandidateWeight(); got != 0 {
		t.Errorf("after a restart mx has %s, want it off", got)
	}
}
