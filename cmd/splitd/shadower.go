package main

import (
	"fmt"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/daemon"
	"github.com/splitd/splitd/shadow/shadower"
)

// shadowerCommand is the process that plays shadows: the daemon starts it, and it ends
// with the daemon alone.
func shadowerCommand(e env) *cobra.Command {
	var o shadower.ServeOptions
	var format, level string
	cmd := &cobra.Command{
		Use:    daemon.ShadowerCommand,
		Short:  "Play the shadows of the daemon that starts this, which alone can",
		Hidden: true,
		Args:   cobra.NoArgs,
	}
	cmd.Flags().IntVar(&o.Rings, "rings", 0, "rings that it reads")
	cmd.Flags().IntVar(&o.Records, "records", 0, "bytes of each")
	cmd.Flags().Int64Var(&o.Budget, "budget", 0, "bytes that all shadows may hold")
	cmd.Flags().StringVar((*string)(&o.Priority), "priority", "", "as shadow.priority")
	cmd.Flags().StringVar(&format, "log-format", "text", "as log.format")
	cmd.Flags().StringVar(&level, "log-level", "INFO", "as log.level")
	cmd.RunE = failing(func(*cobra.Command, []string) error {
		signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP) // they are for the daemon
		log := configs.Log{Format: format}
		if err := log.Level.UnmarshalText([]byte(level)); err != nil {
			return fmt.Errorf("read --log-level: %w", err)
		}
		return shadower.Serve(o, daemon.Logger(e.stderr, log))
	})
	return cmd
}
