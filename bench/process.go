package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/ladder"
)

// user is who a process runs as.
type user struct {
	name string
	id   int // 0: who runs the benchmarks
}

// nobody is the machine's own: an ordinary user without a capability.
func nobody() user { return user{name: "nobody", id: 65534} }

// home is a new folder that the user owns, and how it goes again.
func (u user) home() (string, func(), error) {
	dir, err := os.MkdirTemp("", "splitd-bench-")
	if err != nil {
		return "", nil, fmt.Errorf("make folder: %w", err)
	}
	remove := func() { _ = os.RemoveAll(dir) }
	if u.id != 0 {
		if err := os.Chown(dir, u.id, u.id); err != nil {
			remove()
			return "", nil, fmt.Errorf("give folder to %q: %w", u.name, err)
		}
	}
	return dir, remove, nil
}

// process is a program that runs on a router, and all that it has started.
type process struct {
	cmd    *exec.Cmd
	ended  chan error
	output bytes.Buffer // read it when the process has ended
}

// start starts a program on the way's router.
func (w *way) start(ctx context.Context, u user, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...), ended: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if u.id != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.id), Gid: uint32(u.id)}
	}
	// A process that its program started may keep the output open.
	p.cmd.WaitDelay = time.Second
	if err := w.router.Start(p.cmd); err != nil {
		return nil, fmt.Errorf("start %q: %w", name, err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	return p, nil
}

// until waits for a condition, for as long as the process lives.
func (p *process) until(what string, holds func() error) error {
	const most = 3 * time.Minute
	for deadline := time.Now().Add(most); ; {
		err := holds()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s for %s: %w", what, most, err)
		}
		select {
		case end := <-p.ended:
			p.ended <- end
			return fmt.Errorf("wait for %s: %q has ended: %w\n%s", what, p.cmd.Path, errors.Join(end, err), &p.output)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// stop ends the process and returns when it is gone: its addresses are free.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(2 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// family is the process and all that it has started: nginx works in those.
func (p *process) family() []int { return ladder.Family(p.cmd.Process.Pid) }

// cpu is the time that the process and its children have had on processors, in
// user's and in kernel mode. It is what utime and stime in /proc/PID/stat add up
// to, in nanoseconds instead of hundredths of a second (clock_getcpuclockid(3)).
func (p *process) cpu() (time.Duration, error) {
	_, all, err := p.cpus()
	return all, err
}

// cpus is the same of the process alone, and of all.
func (p *process) cpus() (own, all time.Duration, err error) {
	for i, pid := range p.family() {
		var t unix.Timespec
		const scheduled = 2 // CPUCLOCK_SCHED, in include/linux/posix-timers.h
		if err := unix.ClockGettime(int32(^pid<<3|scheduled), &t); err != nil {
			return 0, 0, fmt.Errorf("read the clock of process %d: %w", pid, err)
		}
		all += time.Duration(t.Nano())
		if i == 0 {
			own = all
		}
	}
	return own, all, nil
}

// resident is the memory of the process and all that it has started, in bytes.
func (p *process) resident() (float64, error) {
	n, err := ladder.ResidentOf(p.cmd.Process.Pid)
	return float64(n), err
}

// residents is the same of the process alone, and of all.
func (p *process) residents() (own, all float64, err error) {
	own, err = field(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), "VmRSS:")
	if err != nil {
		return 0, 0, err
	}
	all, err = p.resident()
	return own * 1024, all, err
}

// field reads a number behind a name that begins a line, as proc(5) has them.
func field(path, name string) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read %q: %w", path, err)
	}
	return fieldOf(string(text), name, path)
}

func fieldOf(text, name, path string) (float64, error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		words := strings.Fields(rest)
		if len(words) == 0 {
			break
		}
		n, err := strconv.ParseFloat(words[0], 64)
		if err != nil {
			return 0, fmt.Errorf("read %q: %q: %w", path, line, err)
		}
		return n, nil
	}
	return 0, fmt.Errorf("read %q: it has no %q", path, name)
}

// copyFor puts a program where the user may run it: the folder that it was
// built in may be closed to him.
func copyFor(u user, program, dir string) (string, error) {
	if u.id == 0 {
		return program, nil
	}
	text, err := os.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("copy program: %w", err)
	}
	path := filepath.Join(dir, filepath.Base(program))
	if err := os.WriteFile(path, text, 0o755); err != nil {
		return "", fmt.Errorf("copy program: %w", err)
	}
	return path, nil
}
