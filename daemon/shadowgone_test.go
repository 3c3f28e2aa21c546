package daemon

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// without has the world's file have another split alone.
func (w *world) without(d *Daemon) {
	w.t.Helper()
	other := shadowedSplit("other", netip.MustParseAddrPort("127.0.0.1:1"), 0)
	other.Service.Ports[0].Number = 8081
	w.have(d, other)
}

// have has the world's file have these splits.
func (w *world) have(d *Daemon, splits ...traffic.Split) {
	w.t.Helper()
	w.files.Splits = splits
	if _, err := d.Apply(w.t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		w.t.Fatal(err)
	}
}

// tick does what the daemon does now and then, and waits for the disk.
func tick(t *testing.T, d *Daemon) {
	t.Helper()
	d.tendReports()
	_ = onDisk(t, d)
}

func TestASplitThatIsGoneIsLetGoOnceItsReportIsSavedAndComesBackWithIt(t *testing.T) {
	split := shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole)
	w := newWorld(t, split)
	d := w.mustBoot()
	visit(d, "web")
	awaitCompared(t, d, 1)
	before := reportFrom(t, d, "web")
	w.without(d)
	first := d.shadows.find("web").play
	nettest.Eventually(t, "its flows have ended", func() bool { return first.Numbers().Open == 0 })
	if tick(t, d); d.shadows.find("web") == nil {
		t.Fatal("it is let go before it is saved")
	}
	if tick(t, d); d.shadows.find("web") != nil {
		t.Fatal("it is saved, and is held")
	}
	if text := onDisk(t, d); !strings.Contains(string(text), `"body $.n"`) {
		t.Errorf("the disk has %s", text)
	}
	w.have(d, split)
	if diff := cmp.Diff(before, reportFrom(t, d, "web")); diff != "" {
		t.Errorf("when it is back (-before +after):\n%s", diff)
	}
	visit(d, "web")
	awaitCompared(t, d, 2)
	// One that comes back meanwhile is not let go.
	w.without(d)
	tick(t, d)
	seen := *d.shadows.find("web")
	w.have(d, split)
	d.shadows.letGo("web", seen, []byte("{}"))
	w.without(d)
	d.shadows.letGo("web", seen, []byte("{}"))
	w.have(d, split)
	if got := reportFrom(t, d, "web"); got.Cover.Compared != 2 {
		t.Errorf("it has %+v", got.Cover)
	}
}

// largeReport is one of so many bytes.
func largeReport(split string, at time.Time, bytes int) state.Report {
	return state.Report{Split: split, SavedAt: at, Text: json.RawMessage(`"` + strings.Repeat("x", bytes) + `"`)}
}

func TestOfReportsOfSplitsThatAreGoneTheNewestAreHeldAndAllAreForgottenByTheirNames(t *testing.T) {
	w := newWorld(t, shadowedSplit("web", website(t, `{"n":2}`), 0))
	store, err := state.Open(filepath.Join(w.dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"c", "a", "web", "b"} {
		if err := store.SaveReports(largeReport(name, noon.Add(time.Duration(i)*time.Second), goneMost*3/8)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	d := w.mustBoot()
	all, err := ask(t.Context(), d.scribe, func(store Store) ([]state.KeptReport, error) { return store.KeptReports() })
	read := heldOf(all, func(split string) bool { return split == "web" })
	if diff := cmp.Diff(map[string]bool{"b": true, "web": true, "a": true, "c": false}, read); diff != "" || err != nil {
		t.Errorf("%v; of the disk's are read (-want +got):\n%s", err, diff)
	}
	held := func() string {
		d.shadows.mu.Lock()
		defer d.shadows.mu.Unlock()
		var names []string
		for _, name := range slices.Sorted(maps.Keys(d.shadows.kept)) {
			names = append(names, fmt.Sprintf("%s:%t", name, d.shadows.kept[name].text != nil))
		}
		return strings.Join(names, " ")
	}
	if got := held(); got != "a:true b:true c:false" {
		t.Errorf("at the start are held %q", got)
	}
	d.shadows.mu.Lock()
	d.shadows.shelve("new", make([]byte, goneMost*3/8))
	d.shadows.mu.Unlock()
	if got := held(); got != "a:false b:true c:false new:true" {
		t.Errorf("with another are held %q", got)
	}
	for _, name := range []string{"a", "b", "c"} {
		if change, err := d.ResetReport(t.Context(), control.Actor{User: "ann"}, name, api.Request{}); err != nil || !change.Changed {
			t.Errorf("%s is not forgotten: %+v, %v", name, change, err)
		}
	}
	// One that is there, and has no play, is held whatever there is; when it is gone it is
	// one of those that are.
	d.shadows.mu.Lock()
	d.shadows.kept["other"] = keptReport{text: make([]byte, goneMost*3/4)}
	d.shadows.mu.Unlock()
	other := shadowedSplit("other", netip.MustParseAddrPort("127.0.0.1:1"), 0)
	other.Shadow.To = ""
	w.have(d, other)
	if got := held(); got != "new:true other:true" {
		t.Errorf("with one that is there are held %q", got)
	}
	w.have(d, shadowedSplit("web", netip.MustParseAddrPort("127.0.0.1:1"), 0))
	if got := held(); got != "new:false other:true" {
		t.Errorf("when it is gone too are held %q", got)
	}
	all, err = ask(t.Context(), d.scribe, func(store Store) ([]state.KeptReport, error) { return store.KeptReports() })
	for _, k := range all {
		if k.Split != "web" {
			t.Errorf("the disk still has %+v", k)
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// What the memory has no room for is on the disk alone: a split that comes back then
// begins anew, and the disk has that.
func TestASplitThatComesBackWithoutItsReportBeginsAnew(t *testing.T) {
	split := shadowedSplit("web", website(t, `{"n":2}`), traffic.Whole)
	w := newWorld(t, split)
	d := w.mustBoot()
	visit(d, "web")
	awaitCompared(t, d, 1)
	w.without(d)
	nettest.Eventually(t, "its flows have ended", func() bool { return d.shadows.find("web").play.Numbers().Open == 0 })
	tick(t, d)
	tick(t, d)
	d.shadows.mu.Lock()
	d.shadows.shelve("large", make([]byte, goneMost))
	d.shadows.mu.Unlock()
	w.have(d, split)
	if got := reportFrom(t, d, "web"); got.Cover.Eligible != 0 {
		t.Errorf("it goes on with %+v", got.Cover)
	}
	if tick(t, d); strings.Contains(string(onDisk(t, d)), `"body $.n"`) {
		t.Errorf("the disk has %s", onDisk(t, d))
	}
}
