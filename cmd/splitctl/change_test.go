package main

import (
	"testing"

	"github.com/splitd/splitd/control/api"
)

func TestAChangeOfNoWeightSaysWhatChanged(t *testing.T) {
	change := api.Change{Split: "mx", Changed: true, Generation: 3, PreviousPPM: 0, WeightPPM: 0}
	if got, want := changeLine(change, "closed, its groups too"), "mx: closed, its groups too, weight still 0%, generation 3"; got != want {
		t.Errorf("off says %q, want %q", got, want)
	}
	if got, want := changeLine(change, "held by the file again"), "mx: held by the file again, weight still 0%, generation 3"; got != want {
		t.Errorf("set default says %q, want %q", got, want)
	}
	if got, want := changeLine(change, heldAgain), "mx: what held before that change holds again, weight still 0%, generation 3"; got != want {
		t.Errorf("undo says %q, want %q", got, want)
	}
	change.PreviousPPM = 50_000
	if got, want := changeLine(change, "closed, its groups too"), "mx: 5% -> 0%, generation 3"; got != want {
		t.Errorf("with a weight it says %q, want %q", got, want)
	}
}
