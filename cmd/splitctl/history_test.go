package main

import (
	"testing"

	"github.com/splitd/splitd/control/api"
)

func TestAResetOfAReportHasNoWeightInTheHistory(t *testing.T) {
	for action, want := range map[string]string{"reset": "-", "set": "5%"} {
		if got := sideOf(api.Entry{Action: action, WeightPPM: 50_000}, 50_000, 0); got != want {
			t.Errorf("%s is told as %q, want %q", action, got, want)
		}
	}
}
