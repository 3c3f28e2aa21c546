package main

import (
	"fmt"
	"io"
	"time"

	"github.com/splitd/splitd/control/api"
)

// writeEvidence tells what became of the flows of each generation, and how far
// drains are.
func (a *app) writeEvidence(w io.Writer, s api.Split) error {
	if err := a.writeBelow(w, a.drains([]api.Split{s})); err != nil {
		return err
	}
	numbers := []string{"GENERATION", "FLOWS", "ACTIVE", "HALF OPEN", "UNANSWERED", "REFUSED", "RESETS", "BYTES IN", "BYTES OUT"}
	t := a.table(numbers, append(append([]string{"BACKEND"}, numbers...), "LIFETIME")...)
	for _, e := range s.Evidence {
		generation := fmt.Sprint(e.Generation)
		if e.Generation == 0 {
			generation = "unknown"
		}
		t.row(e.Backend, generation, e.Flows, e.Active, e.HalfOpen, e.Unanswered, e.Refused, e.Resets,
			numberOrNone(e.BytesIn), numberOrNone(e.BytesOut), lifetimeText(e.Lifetime))
	}
	if err := a.writeBelow(w, t); err != nil || s.Flows.Note == "" {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", printable(s.Flows.Note))
	return err
}

// drains is the table of how far drains are.
func (a *app) drains(splits []api.Split) *table {
	t := a.table([]string{"STILL OPEN", "ENDED"}, "SPLIT", "DRAINED", "SINCE", "RATE", "KILL AT", "STILL OPEN", "ENDED")
	for _, s := range splits {
		for _, b := range s.Backends {
			if b.Drain == nil {
				continue
			}
			rate := none
			if b.Drain.RatePerSecond > 0 {
				rate = fmt.Sprintf("%g/s", b.Drain.RatePerSecond)
			}
			t.row(s.Name, b.Name, a.local(b.Drain.Since), rate, a.localOrNone(b.Drain.KillAt), numberOrNone(b.FlowsActive), b.Drain.Ended)
		}
	}
	return t
}

// lifetimeText is how long half of the ended flows lasted at most, and 95 of a
// hundred.
func lifetimeText(l *api.Lifetimes) string {
	if l == nil {
		return none
	}
	return "p50 " + boundText(l.P50) + ", p95 " + boundText(l.P95)
}

func boundText(seconds *float64) string {
	if seconds == nil {
		return "> 12h"
	}
	return "<= " + shortDuration(time.Duration(*seconds*float64(time.Second)))
}

// shortDuration writes whole units without those that are zero: 2h, 30m, 15s.
func shortDuration(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}
