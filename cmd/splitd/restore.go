package main

import (
	"errors"
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
		cfg, unread, err := loadOrDefault(e, flags)
		if err != nil {
			return err
		}
		sentence, err := daemon.Restore(cmd.Context(), cfg, daemon.Logger(e.stderr, cfg.Log), time.Now)
		if sentence != "" {
			say(cmd.ErrOrStderr(), "splitd: %s\n", sentence)
		}
		if err == nil && unread && !flags.set("state-dir") {
			return errors.New("look for what to restore: the configuration, which may name another state_dir, cannot be read: mend it or give --state-dir")
		}
		return err
	})
	return cmd
}
