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
		cfg, err := loadOrDefault(e, flags)
		if err != nil {
			return err
		}
		result, err := daemon.Cleanup(cmd.Context(), cfg, now)
		if err != nil {
			return err
		}
		if result.KeeperLeft {
			say(cmd.ErrOrStderr(), "splitd: nothing is split any more; a keeper stays for %d open flows: run `splitd cleanup` again when they have ended, or `splitd cleanup --now` to end them\n", result.LiveFlows)
			return nil
		}
		say(cmd.ErrOrStderr(), "splitd: nothing of splitd is left in the kernel\n")
		return nil
	})
	return cmd
}
