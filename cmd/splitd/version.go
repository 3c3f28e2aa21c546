package main

import (
	"github.com/spf13/cobra"

	"github.com/splitd/splitd/internal/build"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			say(cmd.OutOrStdout(), "splitd %s\n", build.Read())
		},
	}
}
