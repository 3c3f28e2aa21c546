package daemon

import (
	"bytes"
	"os"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

func TestWhatAChangeSavesForABootIsNoMoreThanTheChange(t *testing.T) {
	web := mx(0)
	web.Name, web.Service.Ports = "web", []traffic.Port{{Number: 80, Transport: traffic.TCP}}
	w := newWorld(t, mx(0), web)
	d := w.mustBoot()
	saved := func(about string, lines int, weight traffic.Weight) {
		t.Helper()
		text, err := os.ReadFile(d.file(snapshotFile))
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := state.ReadSnapshot(d.file(snapshotFile))
		if got := snapshot.Splits[0].CandidateWeight(); err != nil || got != weight || bytes.Count(text, []byte("\n")) != lines {
			t.Errorf("%s: a boot restores %s, from %d lines, error %v; want %s from %d", about, got, bytes.Count(text, []byte("\n")), err, weight, lines)
		}
	}
	saved("at the start", 1, 0)
	for _, weight := range []traffic.Weight{50_000, 60_000} {
		if _, err := w.set(d, weight); err != nil {
			t.Fatal(err)
		}
	}
	saved("after two changes", 3, 60_000)
	if err := os.Remove(d.file(snapshotFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.set(d, 70_000); err != nil {
		t.Fatal(err)
	}
	saved("after it was removed", 1, 70_000)
	w.files.Splits[1].Service.Ports[0].Number = 81
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	saved("after an apply", 1, 70_000)
}
