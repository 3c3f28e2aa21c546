package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	netnsfd "github.com/vishvananda/netns"

	"github.com/splitd/splitd/internal/programs"
)

// demoRun is one run of `splitd demo`.
type demoRun struct {
	t     *testing.T
	cmd   *exec.Cmd
	tmp   string // its TMPDIR, which nothing else uses: also marks its processes
	ended chan struct{}
	err   error

	mu     sync.Mutex
	output bytes.Buffer
}

// Write takes the demo's output.
func (d *demoRun) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.output.Write(p)
}

func (d *demoRun) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.output.String()
}

// startDemo starts the demo as a user does: in no namespaces of ours, so that
// it makes its own.
func startDemo(t *testing.T, arrange func(*exec.Cmd), args ...string) *demoRun {
	t.Helper()
	tmp, err := os.MkdirTemp("", "demo-test-") //nolint:usetesting // short: the paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	d := &demoRun{t: t, tmp: tmp, ended: make(chan struct{})}
	d.cmd = exec.Command(programs.Path(t, "splitd"), append([]string{"demo"}, args...)...)
	d.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SPLITD_IN_NETNS=") })
	d.cmd.Env = append(d.cmd.Env, "TMPDIR="+d.tmp)
	d.cmd.Stdout, d.cmd.Stderr = d, d
	if arrange != nil {
		arrange(d.cmd)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.ended
	})
	return d
}

// waitFor waits until the demo has printed the text.
func (d *demoRun) waitFor(text string) {
	d.t.Helper()
	d.poll("the demo to print "+strconv.Quote(text), func() bool {
		if strings.Contains(d.text(), text) {
			return true
		}
		select {
		case <-d.ended:
			d.t.Fatalf("the demo ended and never printed %q:\n%s", text, d.text())
		default:
		}
		return false
	})
}

func (d *demoRun) poll(what string, done func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain for %s:\n%s", what, d.text())
		}
	}
}

// exit waits for the demo to end and returns its exit code.
func (d *demoRun) exit() int {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(90 * time.Second):
		d.t.Fatalf("the demo does not end:\n%s", d.text())
	}
	if exit, ok := errors.AsType[*exec.ExitError](d.err); ok {
		return exit.ExitCode()
	}
	if d.err != nil {
		d.t.Fatal(d.err)
	}
	return 0
}

func (d *demoRun) lastLine() string {
	lines := strings.Split(strings.TrimSpace(d.text()), "\n")
	return lines[len(lines)-1]
}

// processes lists the demo's processes by what they are: those with its
// temporary directory in their environment.
func (d *demoRun) processes() map[int]string {
	d.t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		d.t.Fatal(err)
	}
	found := make(map[int]string)
	for _, entry := range entries {
		environment, err := os.ReadFile(filepath.Join(entry, "environ"))
		if err != nil || !bytes.Contains(environment, []byte("TMPDIR="+d.tmp)) {
			continue // ended meanwhile, or not ours to look at
		}
		command, err := os.ReadFile(filepath.Join(entry, "cmdline"))
		if err != nil || len(command) == 0 {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil {
			d.t.Fatal(err)
		}
		found[pid] = strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found
}

// process finds the one process of the demo whose command line has the text.
func (d *demoRun) process(text string) int {
	d.t.Helper()
	for pid, command := range d.processes() {
		if strings.Contains(command, text) {
			return pid
		}
	}
	d.t.Fatalf("no process of the demo is %q: %v", text, d.processes())
	return 0
}

// nothingLeft fails the test when a process or a file of the demo outlives it.
func (d *demoRun) nothingLeft() {
	d.t.Helper()
	d.poll("the last process of the demo to end", func() bool { return len(d.processes()) == 0 })
	files, err := os.ReadDir(d.tmp)
	if err != nil {
		d.t.Fatal(err)
	}
	if len(files) != 0 {
		d.t.Errorf("the demo left files: %v", files)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// in speaks with the kernel about the network namespace of a process.
func in(t *testing.T, pid int, change func(*netlink.Handle) error) {
	t.Helper()
	ns, err := netnsfd.GetFromPid(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := change(h); err != nil {
		t.Fatal(err)
	}
}
