package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
)

func (a *app) history() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:               "history [SPLIT]",
		Short:             "Show who changed what, when and why, newest first",
		Args:              onlySplit,
		ValidArgsFunction: a.completeSplits,
	}
	output := formatFlag(cmd)
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "at most this many changes; 0 is all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if limit < 0 {
			return usagef("--limit %d is negative", limit)
		}
		history, err := a.client(0).History(cmd.Context(), first(args), limit)
		if err != nil {
			return err
		}
		return a.print(output, history, func(w io.Writer) error { return a.writeHistory(w, history) }, nil)
	}
	return cmd
}

func (a *app) writeHistory(w io.Writer, history api.History) error {
	t := a.table([]string{"NO", "GENERATION", "FROM", "TO"},
		"NO", "TIME", "SPLIT", "GENERATION", "ACTION", "FROM", "TO", "WHO", "REASON", "COMMAND")
	for _, e := range history.Items {
		t.row(e.Sequence, a.local(e.Time), e.Split, e.Generation, action(e), sideOf(e, e.PreviousPPM, e.PreviousSamplePPM), sideOf(e, e.WeightPPM, e.SamplePPM), who(e), e.Reason, e.Command)
	}
	return t.write(w)
}

// sideOf is one side of a change: the weight, the sample, or both where both have
// changed.
func sideOf(e api.Entry, weight, sample int) string {
	switch {
	case e.Action == "reset": // of a report: no weight has to do with it
		return none
	case e.PreviousSamplePPM == e.SamplePPM:
		return percent(weight)
	case e.PreviousPPM == e.WeightPPM:
		return "sample " + percent(sample)
	}
	return percent(weight) + ", sample " + percent(sample)
}

func action(e api.Entry) string {
	switch {
	case e.Ended > 0:
		return fmt.Sprintf("%s of %d flows", e.Action, e.Ended)
	case e.Undoes == 0:
		return e.Action
	}
	return fmt.Sprintf("%s of %d", e.Action, e.Undoes)
}

// who keeps apart what the kernel said and what the caller claimed.
func who(e api.Entry) string {
	name := e.User
	switch {
	case e.UID < 0:
		name = "splitd"
	case name == "":
		name = "uid " + strconv.Itoa(e.UID)
	}
	if e.SudoUser != "" {
		name += " (claimed: " + e.SudoUser + ")"
	}
	return name
}
