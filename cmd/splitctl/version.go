package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/build"
)

func (a *app) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of splitctl and of the daemon",
		Args:  cobra.NoArgs,
	}
	output := formatFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		own := build.Read()
		versions := api.Versions{
			Envelope: api.Of(api.KindVersions),
			Client:   api.Build{Version: own.Version, Commit: own.Commit, Go: own.Go},
		}
		// A splitctl without a daemon has a version too.
		daemon, err := a.client(time.Second).Version(cmd.Context())
		switch {
		case err != nil:
			a.say("splitctl: " + err.Error())
		case daemon.Version != own.Version || daemon.Commit != own.Commit:
			a.warn("splitctl and splitd differ: restart splitd if it was upgraded, or install the splitctl that came with it")
		}
		if err == nil {
			versions.Daemon = &daemon
		}
		return a.print(output, versions, func(w io.Writer) error { return a.writeVersions(w, own, versions.Daemon) }, nil)
	}
	return cmd
}

func (a *app) writeVersions(w io.Writer, own build.Info, daemon *api.VersionInfo) error {
	t := a.table(nil, "PROGRAM", "VERSION", "COMMIT", "GO", "PID", "STARTED")
	t.row("splitctl", own.Version, own.Commit, own.Go, none, none)
	if daemon == nil {
		t.row("splitd", none, none, none, none, none)
	} else {
		t.row("splitd", daemon.Version, daemon.Commit, daemon.Go, daemon.PID, a.local(daemon.StartedAt))
	}
	return t.write(w)
}
