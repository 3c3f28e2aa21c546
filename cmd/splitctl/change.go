package main

import (
	"fmt"
	"io"

	"github.com/splitd/splitd/control/api"
)

// closed is what an `off` has changed where the weight was 0.
const closed = "closed, its groups too"

// printChangeOf writes what a change did to one split, and says what changed
// where the weight did not. Its warnings go to standard error in every format: a
// change is a moment to look up.
func (a *app) printChangeOf(output *format, change api.Change, what string) error {
	a.warnOf(change)
	return a.print(output, change, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, changeLine(change, what))
		return err
	}, nil)
}

func (a *app) printChanges(output *format, list api.ChangeList) error {
	for _, warning := range list.Warnings {
		a.warn("%s", warning)
	}
	for _, change := range list.Items {
		a.warnOf(change)
	}
	return a.print(output, list, func(w io.Writer) error { return writeChanges(w, list.Items, closed) }, nil)
}

func writeChanges(w io.Writer, changes []api.Change, what string) error {
	for _, change := range changes {
		if _, err := fmt.Fprintln(w, changeLine(change, what)); err != nil {
			return err
		}
	}
	return nil
}

func changeLine(change api.Change, what string) string {
	line := changeText(change, what)
	if change.Ended != nil {
		line += fmt.Sprintf(", %d open flows ended", *change.Ended)
	}
	return line
}

func changeText(change api.Change, what string) string {
	sample := fmt.Sprintf("sample %s -> %s", percent(change.PreviousSamplePPM), percent(change.SamplePPM))
	sampled := change.PreviousSamplePPM != change.SamplePPM
	switch {
	case change.Removed:
		return fmt.Sprintf("%s: removed (was %s), generation %d", change.Split, percent(change.PreviousPPM), change.Generation)
	case !change.Changed:
		return fmt.Sprintf("%s: already %s, generation %d", change.Split, percent(change.WeightPPM), change.Generation)
	case change.PreviousPPM == change.WeightPPM && sampled:
		return fmt.Sprintf("%s: %s, weight still %s, generation %d", change.Split, sample, percent(change.WeightPPM), change.Generation)
	case sampled:
		return fmt.Sprintf("%s: %s -> %s, %s, generation %d", change.Split, percent(change.PreviousPPM), percent(change.WeightPPM), sample, change.Generation)
	case change.PreviousPPM == change.WeightPPM:
		return fmt.Sprintf("%s: %s, weight still %s, generation %d", change.Split, what, percent(change.WeightPPM), change.Generation)
	}
	return fmt.Sprintf("%s: %s -> %s, generation %d", change.Split, percent(change.PreviousPPM), percent(change.WeightPPM), change.Generation)
}

func (a *app) warnOf(change api.Change) {
	for _, warning := range change.Warnings {
		a.warn("%s: %s", change.Split, warning)
	}
}
