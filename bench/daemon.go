package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// served is how long an operator waits for the daemon that has n splits.
type served struct {
	splits      int
	start       time.Duration // until the socket answers
	set, status times         // whole processes of splitctl
	bare        times         // splitctl that asks nobody
}

// binariesEnv names the folder of the built programs; make sets it.
const binariesEnv = "SPLITD_BIN"

// daemons runs the real programs, one daemon after the other.
func daemons(ctx context.Context, most int, say func(string, ...any)) ([]served, error) {
	var all []served
	for _, n := range []int{1, 1000, 10_000} {
		if n > most {
			continue
		}
		say("daemon with %d splits", n)
		one, err := daemon(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("run splitd with %d splits: %w", n, err)
		}
		all = append(all, one)
	}
	return all, nil
}

func daemon(ctx context.Context, n int) (one served, err error) {
	one.splits = n
	l, err := newLab()
	if err != nil {
		return one, err
	}
	defer l.close()
	w, err := l.add("router")
	if err != nil {
		return one, err
	}
	dir, err := os.MkdirTemp("", "splitd-bench-")
	if err != nil {
		return one, fmt.Errorf("make folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	config, socket := filepath.Join(dir, "splitd.yaml"), filepath.Join(dir, "splitd.sock")
	if err := os.WriteFile(config, []byte(w.config(dir, n)), 0o600); err != nil {
		return one, fmt.Errorf("write configuration: %w", err)
	}
	log := &strings.Builder{}
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv(binariesEnv), "splitd"), "run", "--config", config)
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := time.Now()
	if err := w.router.Start(cmd); err != nil {
		return one, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
	}()
	if err := answers(socket, ended); err != nil {
		ended <- nil
		return one, fmt.Errorf("%w\n%s", err, log)
	}
	one.start = time.Since(started)
	return one, one.ask(ctx, w, socket)
}

// answers waits for the daemon's socket.
func answers(socket string, ended <-chan error) error {
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		if c, err := net.Dial("unix", socket); err == nil {
			return c.Close()
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("it ended at its start"), err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return errors.New("its socket is not there after 3 minutes")
}

// ask runs splitctl as an operator does.
func (s *served) ask(ctx context.Context, w *way, socket string) error {
	splitctl := func(args ...string) error {
		return w.run(exec.CommandContext(ctx, filepath.Join(os.Getenv(binariesEnv), "splitctl"), append([]string{"--socket", socket}, args...)...))
	}
	var err error
	if s.bare, err = each(15, func(int) error { return splitctl("--help") }); err != nil {
		return err
	}
	if s.set, err = each(15, func(i int) error { return splitctl("set", "mx", fmt.Sprintf("%d%%", 10+i)) }); err != nil {
		return err
	}
	s.status, err = each(3, func(int) error { return splitctl("status", "-o", "json") })
	return err
}

// config is a configuration of n splits, the last of which is mx.
func (w *way) config(dir string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "control: {socket: %q}\nhttp: {listen: \"\"}\nstate_dir: %q\nsplits:\n", filepath.Join(dir, "splitd.sock"), filepath.Join(dir, "state"))
	for i := range n {
		name, port := fmt.Sprintf("a%05d", i), 10_000+i
		if i == n-1 {
			name, port = "mx", portGreet
		}
		fmt.Fprintf(&b, "  - name: %s\n    service: {addresses: [%s], ports: [%d/tcp]}\n    health: {check: none}\n    return: gateway\n"+
			"    primary: {name: old, addresses: [%s]}\n    candidates: [{name: new, addresses: [%s], weight: 5%%}]\n",
			name, w.v4(1, hostService), port, w.v4(2, hostOld), w.v4(2, hostNew))
	}
	return b.String()
}
