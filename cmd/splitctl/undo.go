package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
)

func (a *app) undo() *cobra.Command {
	var reason string
	var expect uint64
	cmd := &cobra.Command{
		Use:               "undo [SPLIT]",
		Short:             "Go back to before the newest change not yet undone",
		Args:              onlySplit,
		ValidArgsFunction: a.completeSplits,
	}
	output := formatFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	cmd.Flags().Uint64Var(&expect, "expect-generation", 0, "refuse, with exit code 7, at any other generation")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := a.request(reason)
		if cmd.Flags().Changed("expect-generation") {
			request.ExpectGeneration = &expect
		}
		change, err := a.client(0).Undo(cmd.Context(), first(args), request)
		if err != nil {
			return unsure(err)
		}
		if e := change.Undone; e != nil {
			a.say("splitctl: took back " + a.changeBefore(*e))
		}
		return a.printChangeOf(output, change, heldAgain)
	}
	return cmd
}

// heldAgain is what an undo has changed where no number did: a word that stood above
// the file, and says the same, or one that had ended by itself since.
const heldAgain = "what held before that change holds again"

// changeBefore names a change of the history.
func (a *app) changeBefore(e api.Entry) string {
	text := fmt.Sprintf("no. %d of %s, %s by %s", e.Sequence, a.local(e.Time), e.Action, printable(who(e)))
	if e.Command != "" {
		text += ": " + printable(e.Command)
	}
	if e.Reason != "" {
		text += " (" + printable(e.Reason) + ")"
	}
	return text
}

// unsure adds to a change that was not answered that it may have been made.
func unsure(err error) error {
	if missing, ok := errors.AsType[*client.Unreachable](err); ok && missing.Hung {
		return fmt.Errorf("%w; whether the change was made is unknown: `splitctl history` tells when it answers again", err)
	}
	return err
}
