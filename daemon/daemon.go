package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/flowlog"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// The files below the state directory.
const (
	storeFile    = "state.db"
	snapshotFile = "restore.json"
	journalFile  = "history.jsonl"
)

// Options are what a Daemon is made from. All fields are needed unless they
// say otherwise.
type Options struct {
	// Config is the configuration to start with; Reload reads the same files
	// again for SIGHUP and `splitctl apply`.
	Config configs.Config
	Reload func() (configs.Config, error)
	// Sources names those files for people.
	Sources string
	// Fileless says that the one split stands on the command line: see mayBeAlone.
	Fileless bool
	// OpenKernel opens the kernel data plane when the first split or return
	// path needs it. Relay is the proxy data plane.
	OpenKernel func() (Kernel, error)
	Relay      Relay
	// Tee is whom Relay tells of sampled flows; nil is nobody.
	Tee *Tee
	// Stage is where shadows are played.
	Stage Stage
	// Host is asked whether it can carry the splits.
	Host Host
	// OpenStore opens the database below the state directory.
	OpenStore func() (Store, error)
	// UID is the user that this process runs as.
	UID int
	// Checker makes the health checks, CheckMark is their packet mark in mode
	// kernel. Rand gives what keeps things apart that would go in step: 0 <= x < 1.
	Checker   health.Checker
	CheckMark uint32
	Rand      func() float64
	Version   api.VersionInfo
	Log       *slog.Logger
	Now       func() time.Time
	// FlowLog gets the flows that the kernel carries; nil is none. The relay has
	// it from whoever made that.
	FlowLog *flowlog.Log
	// Notify tells systemd (sd_notify(3)); nil tells nobody.
	Notify func(state string)
	// Signals are those that end the process, in their order; nil is none. One that
	// comes while flows of the relay drain has them cut off, and then Release lets
	// the next one end the process at once.
	Signals <-chan os.Signal
	Release func()
}

// Daemon is the process `splitd run`. Make one with New, then Run it once.
// Its methods that implement control.Operator may be called from many
// goroutines.
type Daemon struct {
	options Options
	log     *slog.Logger
	now     func() time.Time

	planes  *planes
	scribe  *scribe
	journal func(...state.Entry) error
	saver   *saver
	looks   gate
	idle    idleOffs

	raising  sync.Mutex // one raise at a time; taken before changing, held while the disk is waited for
	changing sync.Mutex // one change at a time; never held while anybody waits for a disk
	view     atomic.Pointer[view]
	lowered  atomic.Uint64 // +1, under changing, for every word that does not raise
	// reserved are generations that a raise has in the store but not yet in
	// force. Under changing.
	reserved map[string]traffic.Generation
	steps    atomic.Uint64 // +1 when a change enters the planes and when it is through
	expiry   chan struct{} // wakes expire
	opened   chan Kernel   // the kernel plane, when it opens

	telling sync.Mutex      // guards told
	told    map[string]bool // the host's warnings that the log has

	include   chan struct{}           // wakes keepInclude; holds one
	strangers chan netfilter.Stranger // who may have changed the kernel's rules; holds one
	mended    atomic.Uint64           // how often they were put back

	health    *health.Runner
	targeting sync.Mutex // one retarget at a time
	unsettled *nameSet   // the splits of which something went down or came up

	tend *tender // of open flows

	shadows *shadows

	reloads atomic.Pointer[reloaded]

	control *control.Server
	web     net.Listener // nil: http is off
}

// New makes a daemon without touching anything. Run it, or its goroutine for
// the disk stays.
func New(o Options) *Daemon {
	d := &Daemon{
		options: o, log: o.Log, now: o.Now,
		scribe: newScribe(o.OpenStore), reserved: map[string]traffic.Generation{}, told: map[string]bool{},
		expiry:  make(chan struct{}, 1),
		include: make(chan struct{}, 1),
		opened:  make(chan Kernel, 1), strangers: make(chan netfilter.Stranger, 1),
		unsettled: newNameSet(), tend: newTender(),
	}
	d.health = health.New(health.Options{
		Checker: o.Checker, Notify: d.heed, Now: o.Now, Rand: o.Rand, Limit: checksMost, Log: o.Log,
	})
	d.shadows = newShadows(o)
	d.scribe.tell = func(lost error) {
		d.log.Error("the store is lost; changes are not recorded until one raises", "error", lost)
	}
	d.saver = &saver{file: state.NewSnapshotFile(d.snapshotPath()), settings: netfilter.Settings(o.Config.Netfilter)}
	d.planes = &planes{openKernel: o.OpenKernel, host: o.Host, relay: o.Relay, opened: d.opened, log: o.Log}
	d.view.Store(&view{})
	return d
}

// Run starts the daemon, serves until ctx ends, and stops. The kernel's rules
// stay in place when it returns. An error means that it could not start, or
// that a part of it ended by itself.
func (d *Daemon) Run(ctx context.Context, hangup <-chan os.Signal) error {
	if err := d.start(ctx); err != nil {
		return errors.Join(d.explainStart(err), d.stop())
	}
	told := ctx
	group, ctx := errgroup.WithContext(ctx)
	d.serve(ctx, group, hangup)
	d.tellSystemd("READY=1")
	d.log.Info("ready", "socket", d.options.Config.Control.Socket, "splits", len(d.view.Load().names()))
	<-ctx.Done()
	d.tellSystemd("STOPPING=1", extension(d.drainTime()))
	d.log.Info("stopping", "note", stopping(d.view.Load().modes, len(d.planes.sampled().ports) > 0))
	ended := make(chan struct{})
	var saying sync.WaitGroup
	saying.Go(func() { d.farewell(ended, told.Err() != nil) })
	err := group.Wait()
	close(ended)
	saying.Wait()
	d.leaveInclude(context.WithoutCancel(ctx))
	return errors.Join(err, d.stop())
}

// extension asks systemd for the time that the relay's flows may take to drain
// (EXTEND_TIMEOUT_USEC, sd_notify(3)): it ends who takes longer than the unit
// says, and a drain timeout is no business of the unit's.
func extension(longest time.Duration, limited bool) string {
	if !limited {
		longest = 365 * 24 * time.Hour
	}
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (longest + stopPatience + endPatience + time.Second).Microseconds())
}

// stopping says what becomes of the flows of splits in these modes. The relay may
// have some of the kernel's too.
func stopping(modes map[string]traffic.Mode, relayed bool) string {
	inKernel := false
	for _, mode := range modes {
		relayed = relayed || mode == traffic.ModeProxy
		inKernel = inKernel || mode != traffic.ModeProxy
	}
	var notes []string
	if relayed {
		notes = append(notes, "open flows of the relay drain, a second signal resets them")
	}
	if inKernel {
		notes = append(notes, "kernel rules stay in place until `splitd cleanup`")
	}
	return strings.Join(notes, "; ")
}

// start brings the planes to the configuration and opens what clients connect
// to. The control socket appears last: whoever finds it finds a daemon whose
// first apply was verified.
func (d *Daemon) start(ctx context.Context) error {
	cfg := d.options.Config
	if err := os.MkdirAll(cfg.StateDir, 0o750); err != nil {
		return fmt.Errorf("make state directory %q: %w", cfg.StateDir, err)
	}
	d.scribe.submit(func() error { d.scribe.last = append(d.scribe.last, d.saver.file.Close); return nil })
	journal, err := state.OpenJournal(filepath.Join(cfg.StateDir, journalFile))
	if err != nil {
		d.log.Warn("open journal", "error", err)
		d.journal = func(...state.Entry) error { return nil }
	} else {
		d.journal = journal.Append
		d.scribe.submit(func() error { d.scribe.last = append(d.scribe.last, journal.Close); return nil })
	}
	if pid, err := (&client.Client{Socket: cfg.Control.Socket}).PeerPID(ctx); err == nil {
		return fmt.Errorf("start: another splitd (pid %d) answers on %q: stop it, or give this one a control.socket and a state_dir of its own", pid, cfg.Control.Socket)
	}
	if cfg.HTTP.Listen != "" {
		listener, err := net.Listen("tcp", cfg.HTTP.Listen)
		if err != nil {
			return fmt.Errorf("listen for http on %q: %w: choose another http.listen, or \"\" for none", cfg.HTTP.Listen, err)
		}
		d.web = control.Limit(listener, webConnections)
	}
	if err := d.begins(ctx); err != nil {
		return err
	}
	server, err := control.Listen(control.ServerOptions{
		Path: cfg.Control.Socket, Group: cfg.Control.Group, GroupExplicit: cfg.Control.GroupExplicit, Log: d.log,
	})
	if err != nil {
		return err
	}
	for _, w := range server.Warnings {
		d.log.Warn("open control socket", "warning", w)
	}
	d.control = server
	return nil
}

// serve starts the goroutines of a running daemon. ARCHITECTURE.md lists them.
func (d *Daemon) serve(ctx context.Context, group *errgroup.Group, hangup <-chan os.Signal) {
	group.Go(func() error { return d.control.Run(ctx, control.Handler(d, d.log)) })
	relaying, relayed := context.WithCancel(context.WithoutCancel(ctx))
	sampling, sampled := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer sampled()
		return d.keepInlets(ctx)
	})
	group.Go(func() error {
		defer relayed() // the flows that drain are told of yet, and ended as was asked
		return d.planes.relay.Run(sampling)
	})
	if l := d.options.FlowLog; l != nil {
		group.Go(func() error { return l.Run(relaying) })
	}
	group.Go(func() error { return d.keepKernel(ctx) })
	group.Go(func() error { return d.tendFlows(relaying) })
	group.Go(func() error { return d.keepReports(relaying) })
	group.Go(d.shadows.stage.Run)
	group.Go(func() error { return d.health.Run(ctx) })
	group.Go(func() error { return d.withdraw(ctx) })
	group.Go(func() error { return d.expire(ctx) })
	group.Go(func() error { return d.watchStore(ctx) })
	group.Go(func() error { return d.reloadOnHangup(ctx, hangup) })
	if d.web != nil {
		group.Go(func() error { return d.serveWeb(ctx) })
	}
}

// keepKernel runs the kernel plane's housekeeping from when it opens, and puts
// its rules back when another program changes them.
func (d *Daemon) keepKernel(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case kernel := <-d.opened:
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return kernel.Run(ctx) })
		group.Go(func() error { return kernel.Watch(ctx, d.suspect) })
		group.Go(func() error { return d.keepInclude(ctx, kernel) })
		group.Go(func() error { return d.mend(ctx) })
		group.Go(func() error { return kernel.Follow(ctx, d.kernelSplits) })
		group.Go(func() error { return kernel.Listen(ctx) })
		if l := d.options.FlowLog; l != nil {
			group.Go(func() error { return d.logFlows(ctx, kernel, l) })
		}
		return group.Wait()
	}
}

// kernelSplits are the splits that the kernel carries now.
func (d *Daemon) kernelSplits() []traffic.Split {
	inKernel, _ := byMode(d.view.Load().splits())
	return inKernel
}

// webConnections bounds the readers over TCP: anybody on this host may ask.
const webConnections = 64

// serveWeb answers /metrics and the read-only API over TCP.
func (d *Daemon) serveWeb(ctx context.Context) error {
	v := d.options.Version
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics.Handler(d, metrics.Build{Version: v.Version, Commit: v.Commit, Go: v.Go}))
	mux.HandleFunc("GET /{$}", index)
	mux.Handle("/", control.ReadOnly(d))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(d.web); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http on %q: %w", d.options.Config.HTTP.Listen, err)
	}
	return nil
}

// index says what stands at this address.
func index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "splitd\n\n/metrics      for Prometheus\n/v1/splits    the state of all splits, JSON\n/v1/history   who changed what, JSON\n/v1/plan      what is in the kernel, JSON\n")
}

// stop closes what start opened, newest first.
func (d *Daemon) stop() error {
	var errs []error
	if d.web != nil {
		if err := d.web.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if kernel := d.planes.inUse(); kernel != nil {
		errs = append(errs, kernel.Close())
	}
	errs = append(errs, d.scribe.close())
	return errors.Join(errs...)
}

// tellSystemd sends the state to the service manager with the weights as its
// status line.
func (d *Daemon) tellSystemd(states ...string) {
	if d.options.Notify == nil {
		return
	}
	message := "STATUS=" + d.view.Load().summary()
	for _, s := range states {
		message = s + "\n" + message
	}
	d.options.Notify(message)
}

func (d *Daemon) snapshotPath() string { return filepath.Join(d.options.Config.StateDir, snapshotFile) }

// lastReload is when the configuration was last read and whether it was taken.
func (d *Daemon) lastReload() metrics.Reload { return d.reloads.Load().Reload }

// resolved is the definition with auto modes resolved, told once.
func (d *Daemon) resolved(definitions []traffic.Split) (map[string]traffic.Mode, []string) {
	splits, notes := d.planes.resolve(definitions)
	modes := make(map[string]traffic.Mode, len(splits))
	for _, s := range splits {
		modes[s.Name] = s.Mode
	}
	return modes, notes
}
