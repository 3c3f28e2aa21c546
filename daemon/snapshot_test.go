package daemon

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
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
		text, err := os.ReadFile(d.snapshotPath())
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := state.ReadSnapshot(d.snapshotPath())
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
	if err := os.Remove(d.snapshotPath()); err != nil {
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

// A full disk may have room for a line and none for a second file.
func TestAChangeIsSavedWhereTheFileCannotBeWrittenWhole(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if err := os.Mkdir(d.snapshotPath()+".tmp", 0o700); err != nil { // where a second file would be
		t.Fatal(err)
	}
	grown := func() bool {
		info, err := os.Stat(d.snapshotPath())
		if err != nil {
			t.Fatal(err)
		}
		return info.Size() > 100<<10 // changes of 64 KiB are the most
	}
	for weight := traffic.Weight(1000); !grown(); weight += 1000 {
		if _, err := w.set(d, weight); err != nil {
			t.Fatal(err)
		}
		snapshot, err := state.ReadSnapshot(d.snapshotPath())
		if err != nil || snapshot.Splits[0].CandidateWeight() != weight {
			t.Fatalf("a boot restores %s, error %v; want %s", snapshot.Splits[0].CandidateWeight(), err, weight)
		}
	}
}

// Records and history of thousands take the disk longer than somebody waits
// who switches everything off.
func TestWhoSwitchesThousandsOffWaitsForOneMarkerAlone(t *testing.T) {
	var splits []traffic.Split
	for i := range recordsMany + 1 {
		s := mx(percent(5))
		s.Name, s.Service.Ports = fmt.Sprintf("s%d", i), []traffic.Port{{Number: uint16(1000 + i), Transport: traffic.TCP}}
		splits = append(splits, s)
	}
	w := newWorld(t, splits...)
	d := w.mustBoot()
	answer := w.hang()
	list, err := d.OffAll(t.Context(), control.Actor{User: "ann"}, api.Request{Reason: "CHG-7"})
	forced, unread := state.ReadForced(w.dir)
	if err != nil || len(list.Items) != len(splits) || len(list.Warnings) > 0 || unread != nil || len(forced) != 1 {
		t.Fatalf("OffAll = %d changes, warnings %q, %v; marker %+v, %v", len(list.Items), list.Warnings, err, forced, unread)
	}
	if f := forced[0]; !f.Covers("s0") || !f.Covers("s200") || f.User != "ann" || f.Reason != "CHG-7" {
		t.Errorf("the marker is %+v", f)
	}
	if got := w.kernel.weight("s7"); got != 0 {
		t.Errorf("s7 has %s in the kernel", got)
	}
	answer()
	records, err := d.scribe.records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range records {
		if inForce(r).CandidateWeight() != 0 {
			t.Errorf("%s is recorded with %s", name, inForce(r).CandidateWeight())
		}
	}
	if left, err := state.ReadForced(w.dir); err != nil || len(left) > 0 {
		t.Errorf("with all of it recorded the marker stays: %+v, %v", left, err)
	}
	snapshot, err := state.ReadSnapshot(d.snapshotPath())
	if err != nil || snapshot.Splits[0].CandidateWeight() != 0 {
		t.Errorf("the snapshot has %+v, %v", snapshot.Splits[0], err)
	}
}

// What a boot restores after a power cut must not be more for any candidate than
// who changed it was told: only of a raise the disk may be behind.
func TestNobodyWaitsForTheSnapshotsDiskWhereNothingIsLessThanBefore(t *testing.T) {
	three := mx(percent(20))
	other := three.Candidates[0]
	other.Name, other.Addresses = "other", []traffic.Address{{IP: netip.MustParseAddr("10.0.0.99")}}
	three.Candidates = append(slices.Clone(three.Candidates), other)
	before := (&view{}).with(state.Record{Name: "mx", Generation: 1, Definition: three})
	for name, test := range map[string]struct {
		weights [2]traffic.Weight
		change  change
		want    bool
	}{
		"a candidate gets more":                    {[2]traffic.Weight{percent(30), percent(20)}, change{reach: reachWeights}, true},
		"both get more":                            {[2]traffic.Weight{percent(30), percent(30)}, change{reach: reachWeights}, true},
		"one gets more, one less":                  {[2]traffic.Weight{percent(30), 0}, change{reach: reachWeights}, false},
		"an apply, which may change anything else": {[2]traffic.Weight{percent(30), percent(20)}, change{reach: reachAll}, false},
	} {
		t.Run(name, func(t *testing.T) {
			after := three
			after.Candidates = slices.Clone(three.Candidates)
			for i, weight := range test.weights {
				after.Candidates[i].Weight = weight
			}
			test.change.records = []state.Record{{Name: "mx", Generation: 2, Definition: after}}
			if got := test.change.onlyRaises(before); got != test.want {
				t.Errorf("onlyRaises = %v, want %v", got, test.want)
			}
		})
	}
	if gone := (change{reach: reachWeights, records: []state.Record{{Name: "mx", Removed: true}}}); gone.onlyRaises(before) {
		t.Error("a removal is told as a raise")
	}
}
