package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/internal/demo"
)

func demoCommand(e env) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Play a whole mail migration, in network namespaces of its own",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "stop in the middle, leave it running, and say how to look around")
	cmd.RunE = failing(func(cmd *cobra.Command, _ []string) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		ctl := filepath.Join(filepath.Dir(self), "splitctl")
		if _, err := os.Stat(ctl); err != nil {
			return errors.New("find splitctl: the demo calls it as you would, and it is not beside splitd: run `make build`")
		}
		return codeOf(demo.Run(cmd.Context(), demo.Options{Splitd: self, Splitctl: ctl, Keep: keep, Out: e.stdout, Err: e.stderr}))
	})
	return cmd
}

// demoHostCommand is what the demo starts inside its namespaces.
func demoHostCommand(e env) *cobra.Command {
	return &cobra.Command{
		Use:                "demo-host",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: failing(func(cmd *cobra.Command, args []string) error {
			return codeOf(demo.Host(cmd.Context(), args, e.stdin, e.stdout, e.stderr))
		}),
	}
}

// codeOf carries an exit code that needs no text.
func codeOf(code int) error {
	if code == exitOK {
		return nil
	}
	return exit{code: code}
}
