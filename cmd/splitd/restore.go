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
		Long: `Put the last state back into the kernel, at boot, without daemon and database,
and beside the control socket the file include.nft, which nftables.conf may
include: a reload of it then loads our tables in the transaction that flushes
them. With --include-only the kernel stays as it is: that is for after a daemon
that was killed.`,
		Args: cobra.NoArgs,
	}
	flags := addConfigFlags(cmd)
	includeOnly := cmd.Flags().Bool("include-only", false, "only write the file that nftables.conf may include, as the kernel is")
	cmd.RunE = failing(func(cmd *cobra.Command, _ []string) error {
		cfg, unread, err := loadOrDefault(e, flags)
		if err != nil {
			return err
		}
		log := daemon.Logger(e.stderr, cfg.Log)
		var sentence string
		if *includeOnly {
			sentence, err = daemon.WriteInclude(cmd.Context(), cfg, log)
		} else {
			sentence, err = daemon.Restore(cmd.Context(), cfg, log, time.Now)
		}
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
