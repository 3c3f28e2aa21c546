package main

import (
	"github.com/spf13/cobra"

	"github.com/splitd/splitd/daemon"
)

func cleanupCommand(e env) *cobra.Command {
	var now bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove every trace of splitd from the kernel",
		Long: `Remove every trace of splitd from the kernel: tables, ip rules, routes. New
connections are no longer split at once. While connections that were sent to a
candidate are open, a keeper table (and their return path) stays so that they
live; run cleanup again when they have ended, or with --now to end them.`,
		Args: cobra.NoArgs,
	}
	flags := addConfigFlags(cmd)
	cmd.Flags().BoolVar(&now, "now", false, "also end the connections that were sent to a candidate")
	cmd.RunE = failing(func(cmd *cobra.Command, _ []string) error {
		cfg, unread, err := loadOrDefault(e, flags)
		if err != nil {
			return err
		}
		if dir, err := daemon.StateDirInKernel(); unread && err == nil && !flags.set("state-dir") {
			cfg.StateDir = dir
		}
		result, err := daemon.Cleanup(cmd.Context(), cfg, now)
		if err != nil {
			return err
		}
		for _, sentence := range result.Sentences() {
			say(cmd.ErrOrStderr(), "splitd: %s\n", sentence)
		}
		return nil
	})
	return cmd
}
