package main

import (
	"github.com/spf13/cobra"

	"github.com/splitd/splitd/daemon"
)

func runCommand(e env) *cobra.Command {
	var line oneLiner
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon in the foreground",
		Long: `Run the daemon in the foreground, with the configuration in /etc/splitd or in
the files named by --config, or with one split in proxy mode made from flags:

  splitd run --listen 127.0.0.1:2525 --primary 10.0.0.11:25 --candidate 10.0.0.12:25 --weight 5%

Where a configuration has splits already, give that one a --state-dir and a
--control-socket of its own: it refuses to run in the other's place.

SIGHUP reads the files again. SIGTERM stops; kernel rules stay in place, see
` + "`splitd cleanup`.",
		Args: cobra.NoArgs,
	}
	flags := addConfigFlags(cmd)
	cmd.Flags().StringVar(&line.listen, "listen", "", "one split without a file: `ADDRESS:PORT` to listen on")
	cmd.Flags().StringVar(&line.primary, "primary", "", "its primary, `ADDRESS:PORT`")
	cmd.Flags().StringVar(&line.candidate, "candidate", "", "its candidate, `ADDRESS:PORT`")
	cmd.Flags().StringVar(&line.weight, "weight", "", "the candidate's `SHARE` of new connections, such as 5%")
	cmd.RunE = failing(func(cmd *cobra.Command, _ []string) error {
		load, err := loader(e, flags, line)
		if err != nil {
			return err
		}
		return daemon.Serve(cmd.Context(), daemon.Process{Load: load, Sources: flags.sources(), Fileless: line.used(), Stderr: e.stderr})
	})
	return cmd
}
