package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/internal/build"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/netfilter/doctor"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// Process is what `splitd run` is made from.
type Process struct {
	// Load reads the configuration, again at every reload; Sources names for
	// people where from.
	Load    func() (configs.Config, error)
	Sources string
	// Fileless says that Load reads no file: the one split stands on the command
	// line.
	Fileless bool
	Stderr   io.Writer // gets the log
}

// Serve is `splitd run`: the daemon on this host's kernel, sockets, disk and
// clock, until ctx ends. SIGHUP reloads.
func Serve(ctx context.Context, p Process) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	// Whoever began ctx hears of them too. That a shell had SIGINT ignored for its
	// background is over with this.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	cfg, err := p.Load()
	if err != nil {
		return fmt.Errorf("load configuration:\n%w", err)
	}
	log := Logger(p.Stderr, cfg.Log)
	flows, err := openFlowLog(cfg.FlowLog, log)
	if err != nil {
		return err
	}
	tee := &Tee{}
	d := New(Options{
		Config: cfg, Reload: p.Load, Sources: p.Sources, Fileless: p.Fileless,
		OpenKernel: func() (Kernel, error) { return openKernel(cfg, log) },
		Host:       thisHost{netfilter.Settings(cfg.Netfilter), filepath.Dir(includePath(cfg)), &doctor.Recall{}},
		Relay: splitter.New(splitter.Options{
			Log: log, Draw: draw, Workers: cfg.Relay.Workers, FlowLog: toFlowLog(flows), LegMark: netfilter.Settings(cfg.Netfilter).LegMark(),
			Tee: tee,
		}),
		Tee:       tee,
		Stage:     newApart(cfg, p.Stderr, log),
		OpenStore: func() (Store, error) { return openStore(cfg.StateDir, log) },
		UID:       os.Getuid(),
		Checker:   health.Checks{Rand: func() uint16 { return uint16(rand.Uint32()) }},
		CheckMark: netfilter.Settings(cfg.Netfilter).CheckMark(),
		Rand:      rand.Float64,
		Version:   thisProcess(build.Read()),
		Log:       log,
		Now:       time.Now,
		FlowLog:   flows,
		Signals:   signals,
		Release:   func() { signal.Reset(syscall.SIGINT, syscall.SIGTERM) },
		Notify:    func(state string) { _, _ = sd.SdNotify(false, state) }, // without systemd there is nobody to tell
	})
	return d.Run(ctx, hangup)
}

// Logger writes the log as the configuration says.
func Logger(w io.Writer, c configs.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// openKernel and openStore return interfaces: a nil pointer must not become an
// interface that is not nil.
func openKernel(cfg configs.Config, log *slog.Logger) (Kernel, error) {
	kernel, err := netfilter.Open(netfilter.Options{
		Settings: netfilter.Settings(cfg.Netfilter), About: aboutOf(cfg), Log: log, Now: time.Now,
	})
	if err != nil {
		return nil, err
	}
	return kernel, nil
}

func openStore(dir string, log *slog.Logger) (Store, error) {
	store, err := state.Open(filepath.Join(dir, storeFile))
	if err != nil {
		return nil, err
	}
	goOn(store, dir, log)
	return store, nil
}

// goOn has the numbers of a new store's history go on from those that people and
// their log shippers have seen.
func goOn(store *state.Store, dir string, log *slog.Logger) {
	last, err := state.LastSequence(filepath.Join(dir, journalFile))
	if err == nil {
		err = store.GoOn(last)
	}
	if err != nil {
		log.Warn("number the history on", "error", err)
	}
}

// draw is the relay's fair draw.
func draw() traffic.Weight { return traffic.Weight(rand.IntN(int(traffic.Whole))) }

func thisProcess(b build.Info) api.VersionInfo {
	return api.VersionInfo{
		Envelope: api.Of(api.KindVersion), Version: b.Version, Commit: b.Commit, Go: b.Go,
		PID: os.Getpid(), StartedAt: time.Now(),
	}
}
