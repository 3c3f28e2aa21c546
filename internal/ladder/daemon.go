package ladder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
)

// Limits are those of shadows. What is nil is as splitd has it by itself.
type Limits struct {
	Budget     *int64 // of all together, in bytes
	FlowBudget *int64 // of one flow, in bytes
	Patience   *time.Duration
	MaxFlows   *int
	TLS        *Certificates // to see into flows by
}

// DefaultBudget is what splitd has where nobody says otherwise, in bytes.
const DefaultBudget = 64 << 20

// BudgetOf is the budget in force.
func (l Limits) BudgetOf() int64 {
	if l.Budget == nil {
		return DefaultBudget
	}
	return *l.Budget
}

// Daemon is a splitd of the ladder's own, with one split in mode proxy and protocol
// http, and everything that it writes in a temporary directory. Close it.
type Daemon struct {
	address netip.AddrPort
	dir     string
	cmd     *exec.Cmd
	client  *client.Client
	log     said
	ended   chan struct{} // closed when the process has ended
	err     error         // how; to be read after ended
}

// SplitName is what the split is called.
const SplitName = "ladder"

// StartDaemon starts the program and returns when it serves. It may be used as
// Options.Start.
func StartDaemon(ctx context.Context, program string, limits Limits, primary, candidate netip.AddrPort) (*Daemon, error) {
	const tries = 3 // somebody may take the port that was just free
	for try := 1; ; try++ {
		d, err := startDaemon(ctx, program, limits, primary, candidate)
		if err == nil || try == tries || !strings.Contains(err.Error(), "in use") {
			return d, err
		}
	}
}

func startDaemon(ctx context.Context, program string, limits Limits, primary, candidate netip.AddrPort) (*Daemon, error) {
	service, err := freePort(primary.Addr())
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "splitd-ladder-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	socket, config := filepath.Join(dir, "splitd.sock"), filepath.Join(dir, "splitd.yaml")
	d := &Daemon{address: service, dir: dir, client: &client.Client{Socket: socket}, ended: make(chan struct{})}
	if err := os.WriteFile(config, []byte(Config(dir, limits, service, primary, candidate)), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("write configuration: %w", err), os.RemoveAll(dir))
	}
	d.cmd = exec.Command(program, "run", "--config", config)
	d.cmd.Env = withoutSettings(os.Environ())
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	// Ctrl-C is for us, who then end it; so it ends when we are killed.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %q: %w", program, err), os.RemoveAll(dir))
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.serves(ctx); err != nil {
		if closed := d.Close(); errors.Is(err, errEnded) {
			err = closed // which has its words
		}
		return nil, err
	}
	return d, nil
}

// errEnded says that the process has ended by itself.
var errEnded = errors.New("splitd has ended")

// Config is a configuration for a splitd that writes into the folder and shadows one
// split, called SplitName. It has no weight and no health checks: what is measured is
// the shadow.
func Config(dir string, l Limits, service, primary, candidate netip.AddrPort) string {
	var b strings.Builder
	fmt.Fprintf(&b, "control: {socket: %q}\nhttp: {listen: \"\"}\nlog: {level: warn}\nstate_dir: %q\n", filepath.Join(dir, "splitd.sock"), filepath.Join(dir, "state"))
	if l.Budget != nil {
		fmt.Fprintf(&b, "shadow: {budget: %dB}\n", *l.Budget)
	}
	fmt.Fprintf(&b, "splits:\n  - name: %s\n    mode: proxy\n    protocol: http\n    service: {addresses: [%q], ports: [%d/tcp]}\n    health: {check: none}\n",
		SplitName, service.Addr(), service.Port())
	fmt.Fprintf(&b, "    primary: {name: primary, addresses: [%q]}\n    candidates: [{name: candidate, addresses: [%q], weight: 0%%}]\n", primary, candidate)
	b.WriteString("    shadow:\n      to: candidate\n")
	if l.FlowBudget != nil {
		fmt.Fprintf(&b, "      flow_budget: %dB\n", *l.FlowBudget)
	}
	if l.Patience != nil {
		fmt.Fprintf(&b, "      patience: %s\n", *l.Patience)
	}
	if l.MaxFlows != nil {
		fmt.Fprintf(&b, "      max_flows: %d\n", *l.MaxFlows)
	}
	if l.TLS != nil {
		b.WriteString(l.TLS.config())
	}
	return b.String()
}

// freePort is a port of the address that nobody listens at now.
func freePort(at netip.Addr) (netip.AddrPort, error) {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find a free port of %q: %w", at, err)
	}
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	return netip.AddrPortFrom(at, port), listener.Close()
}

// withoutSettings leaves out what splitd and sd_notify(3) read, which is for the
// user's own daemon.
func withoutSettings(environment []string) []string {
	return slices.DeleteFunc(environment, func(variable string) bool {
		return strings.HasPrefix(variable, "SPLITD_") || strings.HasPrefix(variable, "NOTIFY_SOCKET=")
	})
}

// serves waits until the control socket answers: it is there once the split is in
// force.
func (d *Daemon) serves(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := d.client.Version(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return errEnded
		case <-ctx.Done():
			return fmt.Errorf("start splitd: it does not answer: %w (%w)", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// Address implements Subject.
func (d *Daemon) Address() netip.AddrPort { return d.address }

// Shadow implements Subject: it sets the sample to everything, or to nothing.
func (d *Daemon) Shadow(ctx context.Context, on bool) error {
	sample := 0
	if on {
		sample = 1_000_000
	}
	_, err := d.client.Shadow(ctx, SplitName, api.ShadowRequest{SamplePPM: &sample})
	return err
}

// Shadowed implements Subject.
func (d *Daemon) Shadowed(ctx context.Context) (int64, error) {
	text, err := d.client.Report(ctx, SplitName)
	if err != nil {
		return 0, err
	}
	var report struct {
		Coverage struct {
			Eligible int64 `json:"eligible"`
		} `json:"coverage"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return 0, fmt.Errorf("read report: %w", err)
	}
	return report.Coverage.Eligible, nil
}

// Resident implements Subject: it is that of the daemon and of its own processes.
func (d *Daemon) Resident() (int64, error) { return ResidentOf(d.cmd.Process.Pid) }

// cause is how a process has ended.
func cause(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// endGrace is how long it may take to end when it is asked to.
const endGrace = 5 * time.Second

// Close implements Subject: it ends the process and removes its directory. That it
// had ended by itself is an error.
func (d *Daemon) Close() error {
	var err error
	select {
	case <-d.ended:
		err = fmt.Errorf("%w by itself: %w\n%s", errEnded, cause(d.err), d.log.String())
	default:
		d.end()
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

// end asks the process to, and kills it where it does not: what it still relays is
// ours.
func (d *Daemon) end() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	grace := time.NewTimer(endGrace)
	defer grace.Stop()
	select {
	case <-d.ended:
	case <-grace.C:
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
}

// said is what a process writes, its last part.
type said struct {
	mu   sync.Mutex
	text []byte
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p...)
	const most = 8 << 10
	if over := len(s.text) - most; over > 0 {
		s.text = s.text[over:]
	}
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSpace(string(s.text))
}
