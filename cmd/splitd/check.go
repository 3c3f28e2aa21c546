package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/configs"
)

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Judge configuration files, each alone: not the host, not other files",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name a file: usage: splitd check FILE")
			}
			return nil
		},
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			// The lines are the answer, in the form that editors and
			// configuration managers know: no prefix.
			notes, err := configs.Check(args)
			for _, note := range notes {
				say(cmd.ErrOrStderr(), "%s (note)\n", note)
			}
			if err != nil {
				say(cmd.ErrOrStderr(), "%v\n", err)
				return exit{code: exitError}
			}
			return nil
		}),
	}
}
