package daemon

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// onDisk is the report of the split web as the store has it, in its turn behind all that
// is written before; nil when it has none.
func onDisk(t *testing.T, d *Daemon) []byte {
	t.Helper()
	all, err := ask(t.Context(), d.scribe, func(store Store) (map[string]state.Report, error) {
		reports, _, err := store.Reports(func(split string) bool { return split == "web" })
		return reports, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all["web"].Text
}

func TestSamplesThatAreNoLongerToBeFullLeaveTheDiskAtTheNextStart(t *testing.T) {
	const secret = "hunter2secret"
	split := shadowedSplit("web", website(t, `{"n":"`+secret+`"}`), traffic.Whole)
	split.Shadow.FullSamples = true
	w := newWorld(t, split)
	d := w.mustBoot()
	visit(d, "web")
	awaitCompared(t, d, 1)
	d.shadows.end(endPatience)
	d.saveReports()
	if !bytes.Contains(onDisk(t, d), []byte(secret)) {
		t.Fatal("full samples are not on the disk")
	}
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
	w.files.Splits[0].Shadow.FullSamples = false
	w.files.Splits[0].Sample = 0
	d = w.mustBoot()
	defer d.stop()  //nolint:errcheck // the test is over
	d.saveReports() // as the daemon does at once
	text := onDisk(t, d)
	if len(text) == 0 || bytes.Contains(text, []byte(secret)) {
		t.Errorf("the disk has %s", text)
	}
}

func TestAReportOfASplitThatIsGoneIsForgottenByItsName(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		split := shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole)
		w := newWorld(t, split)
		d := w.mustBoot()
		visit(d, "web")
		awaitCompared(t, d, 1)
		d.saveReports()
		other := shadowedSplit("other", netip.MustParseAddrPort("127.0.0.1:1"), 0)
		other.Service.Ports[0].Number = 8081
		w.files.Splits = []traffic.Split{other}
		if restarts {
			if err := d.stop(); err != nil {
				t.Fatal(err)
			}
			d = w.mustBoot()
		} else if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
			t.Fatal(err)
		}
		if onDisk(t, d) == nil {
			t.Fatal("the report is gone with its split")
		}
		change, err := d.ResetReport(t.Context(), control.Actor{User: "ann"}, "web", api.Request{})
		if err != nil || !change.Changed || change.Split != "web" {
			t.Fatalf("restarts %t: %+v, %v", restarts, change, err)
		}
		d.saveReports()
		if text := onDisk(t, d); text != nil {
			t.Errorf("restarts %t: the disk has %s", restarts, text)
		}
		history, err := d.History(t.Context(), "web", 1)
		if err != nil || len(history.Items) != 1 || history.Items[0].Action != "reset" || history.Items[0].User != "ann" {
			t.Errorf("restarts %t: the history has %+v, %v", restarts, history.Items, err)
		}
		if _, err := d.ResetReport(t.Context(), control.Actor{}, "web", api.Request{}); err == nil {
			t.Errorf("restarts %t: what is forgotten is forgotten again", restarts)
		}
		if err := d.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// What a save has read before a reset is not written behind it.
func TestASaveUnderWayBringsNothingBackThatWasReset(t *testing.T) {
	w := newWorld(t, shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole))
	d := w.mustBoot()
	defer d.stop() //nolint:errcheck // the test is over
	visit(d, "web")
	awaitCompared(t, d, 1)
	d.shadows.saving.Store(true) // nobody else saves
	read := d.unsavedReports()
	if _, err := d.ResetReport(t.Context(), control.Actor{}, "web", api.Request{}); err != nil {
		t.Fatal(err)
	}
	d.save(read)
	if text := onDisk(t, d); text != nil {
		t.Errorf("the disk has %s", text)
	}
	nettest.Eventually(t, "the save is over", func() bool { return !d.shadows.saving.Load() })
	d.saveReports()
	if text := onDisk(t, d); text == nil {
		t.Error("what is counted anew is not saved")
	}
}
