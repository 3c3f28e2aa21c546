package main

import (
	"testing"

	"github.com/splitd/splitd/control/api"
)

func TestWhereSaysThatAShadowIsPaused(t *testing.T) {
	for want, of := range map[string]*api.Sampled{
		"": nil,
		"; 25% of those to the primary are shadowed":                                       {SharePPM: 250_000},
		"; 25% of those to the primary would be shadowed, but it is paused: no answer":     {SharePPM: 250_000, Paused: "no answer"},
		"; shadowed: it has drawn 7 for the sample":                                        {SharePPM: 1_000_000, NumberPPM: new(7)},
		"; would be shadowed (it has drawn 7 for the sample), but it is paused: no answer": {SharePPM: 1_000_000, NumberPPM: new(7), Paused: "no answer"},
		"; not shadowed: it has drawn 7 for the sample":                                    {NumberPPM: new(7), Paused: "no answer"},
	} {
		if got := sampledText(of); got != want {
			t.Errorf("%+v is told as %q, want %q", of, got, want)
		}
	}
}
