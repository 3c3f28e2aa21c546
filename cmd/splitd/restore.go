package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/daemon"
)

func restoreCommand(e env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Put the last state back into the kernel, at boot, without daemon and database",
		Args:  cobra.NoArgs,
	}
	flags := addConfigFlags(cmd)
	cmd.RunE = failing(func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadOrDefault(e, flags)
		if err != nil {
			return err
		}
		sentence, err := daemon.Restore(cmd.Context(), cfg, daemon.Logger(e.stderr, cfg.Log), time.Now)
		if err != nil {
			return err
		}
		say(cmd.ErrOrStderr(), "splitd: %s\n", sentence)
		return nil
	})
	return cmd
}
