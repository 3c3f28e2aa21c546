package main

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/daemon"
	"github.com/splitd/splitd/internal/build"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

func runCommand(e env) *cobra.Command {
	var line oneLiner
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon in the foreground",
		Long: `Run the daemon in the foreground, with the configuration in /etc/splitd or in
the files named by --config, or with one split in proxy mode made from flags:

  splitd run --listen 127.0.0.1:2525 --primary 10.0.0.11:25 --candidate 10.0.0.12:25 --weight 5%

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
		return runDaemon(cmd, e, load, flags.sources())
	})
	return cmd
}

func runDaemon(cmd *cobra.Command, e env, load func() (configs.Config, error), sources string) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	cfg, err := load()
	if err != nil {
		return fmt.Errorf("load configuration:\n%w", err)
	}
	log := logger(e.stderr, cfg.Log)
	d := daemon.New(daemon.Options{
		Config: cfg, Reload: load, Sources: sources,
		OpenKernel: func() (daemon.Kernel, error) {
			return openKernel(cfg, log)
		},
		Relay:     splitter.New(splitter.Options{Log: log, Draw: draw}),
		OpenStore: func() (daemon.Store, error) { return openStore(cfg) },
		Version:   version(),
		Log:       log,
		Now:       time.Now,
		Notify:    func(state string) { _, _ = sd.SdNotify(false, state) }, // without systemd there is nobody to tell
	})
	return d.Run(cmd.Context(), hangup)
}

// openKernel and openStore return interfaces: a nil pointer must not become a
// non-nil interface.
func openKernel(cfg configs.Config, log *slog.Logger) (daemon.Kernel, error) {
	kernel, err := netfilter.Open(netfilter.Options{
		Settings: netfilter.Settings(cfg.Netfilter), StateDir: cfg.StateDir, Log: log, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	return kernel, nil
}

func openStore(cfg configs.Config) (daemon.Store, error) {
	store, err := state.Open(filepath.Join(cfg.StateDir, "state.db"))
	if err != nil {
		return nil, err
	}
	return store, nil
}

// draw is a fair draw of the relay.
func draw() traffic.Weight { return traffic.Weight(rand.IntN(int(traffic.Whole))) }

func logger(w io.Writer, c configs.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func version() api.VersionInfo {
	b := build.Read()
	return api.VersionInfo{
		Envelope: api.Of(api.KindVersion), Version: b.Version, Commit: b.Commit, Go: b.Go,
		PID: os.Getpid(), StartedAt: time.Now(),
	}
}
