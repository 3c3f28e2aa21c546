package daemon

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

func TestUndoSaysWhatItTookBack(t *testing.T) {
	w := newWorld(t, mx(percent(50)))
	d := w.mustBoot()
	minutes := 0
	later := func() { minutes++; w.now = noon.Add(time.Duration(minutes) * time.Minute) }
	off := func(user string) {
		t.Helper()
		later()
		if _, err := d.OffAll(t.Context(), control.Actor{User: user, Command: "splitctl off --all"}, api.Request{Reason: "INC-1"}); err != nil {
			t.Fatal(err)
		}
	}
	undo := func() api.Change {
		t.Helper()
		later()
		change, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
		if err != nil {
			t.Fatal(err)
		}
		return change
	}
	const surprise = "the newest `off`, by ann at 2026-11-20T12:02:00Z, had changed nothing"
	off("bob")
	off("ann") // finds it off
	change := undo()
	if e := change.Undone; e == nil || e.Action != "off" || e.User != "bob" || e.Reason != "INC-1" || e.Command != "splitctl off --all" || e.Sequence != 2 {
		t.Errorf("undo took back %+v, want the off of bob", change.Undone)
	}
	if got := strings.Join(change.Warnings, "\n"); !strings.Contains(got, surprise) || change.WeightPPM != 500_000 {
		t.Errorf("undo warns %q at %d ppm, want %q at the 50%% before", got, change.WeightPPM, surprise)
	}
	off("cid")
	if got := strings.Join(undo().Warnings, "\n"); strings.Contains(got, "nothing") {
		t.Errorf("undo of an off that changed something warns %q", got)
	}
	later()
	_, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
	if err == nil || !strings.Contains(err.Error(), "no change left to undo: `splitctl history mx`") {
		t.Errorf("undo at its end = %v, want the next step in it", err)
	}
}

func TestAStartWarnsOfSplitsThatItRemoves(t *testing.T) {
	own := proxied(percent(5))
	own.Name = "default"
	w := newWorld(t, own)
	d := w.mustBoot()
	if err := w.sets(d, "default", percent(10))(); err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	w.files.Splits = []traffic.Split{mx(0)}
	var log strings.Builder
	d, err := w.bootWith(func(d *Daemon) { d.log = slog.New(slog.NewTextHandler(&log, nil)) })
	if err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	for _, want := range []string{"level=WARN msg=\"split is removed: an earlier run", "split=default weight=10%", `configuration="the files"`, "are forgotten"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log says\n%s\nwant %q in it", log.String(), want)
		}
	}
}

func TestAStartThatCannotListenLeavesNoGeneration(t *testing.T) {
	w := newWorld(t, proxied(percent(5)))
	w.relay.busy = errors.New("listen: address already in use")
	d, err := w.boot()
	if !errors.Is(err, w.relay.busy) {
		t.Fatalf("boot = %v, want %v", err, w.relay.busy)
	}
	records, unread := d.scribe.records(t.Context())
	history, err := d.History(t.Context(), "mx", 0)
	if unread != nil || len(records) > 0 || len(history.Items) > 0 {
		t.Errorf("the failed start has left the records %v and %d lines of history, %v, %v", records, len(history.Items), unread, err)
	}
	_ = d.stop()
}
