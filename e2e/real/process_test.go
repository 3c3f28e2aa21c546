//go:build e2ereal

package real

import (
	"bytes"
	"context"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

// server is a program that serves until it is stopped. A program that forks
// is the first process of a PID namespace: when that one ends, or this test
// does, however it does, the kernel ends all that it has started
// (pid_namespaces(7)).
type server struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	said  *programs.Output
	ended chan struct{}
	err   error // how it ended; to be read after ended
}

// serve starts the program in the network namespace, as root when as is nil.
// It is killed at the end of the test if it has not been stopped by then.
func serve(t testing.TB, ns *nettest.NS, name string, as *syscall.Credential, forks bool, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, name: name, cmd: cmd, said: &programs.Output{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = s.said, s.said
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: as}
	if forks {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	if err := ns.Start(cmd); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-s.ended
		if text := s.said.String(); t.Failed() && text != "" {
			t.Logf("%s said:\n%s", name, tail(text, 10))
		}
	})
	return s
}

// until waits for the server to be ready and fails the test if it ends before.
func (s *server) until(what string, ready func() bool) {
	s.t.Helper()
	nettest.Eventually(s.t, s.name+" "+what, func() bool {
		select {
		case <-s.ended:
			s.t.Fatalf("%s ended at its start: %v\n%s", s.name, s.err, s.said)
		default:
		}
		return ready()
	})
}

// freeze stops the server where it is, as SIGSTOP does, and waits until no thread
// of it runs.
func (s *server) freeze() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, s.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		s.t.Fatalf("wait for %s to stop: %v", s.name, err)
	}
}

// awaitEnd waits for a server that was told to end, which it must do without
// an error.
func (s *server) awaitEnd() {
	s.t.Helper()
	select {
	case <-s.ended:
		if s.err != nil {
			s.t.Errorf("%s ended with %v\n%s", s.name, s.err, tail(s.said.String(), 20))
		}
	case <-time.After(20 * time.Second):
		s.t.Errorf("%s did not end within 20 s of being told to", s.name)
	}
}

// run runs a command in the network namespace until it ends or ctx does.
func run(ctx context.Context, ns *nettest.NS, attr *syscall.SysProcAttr, name string, args ...string) (result, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	if attr == nil {
		attr = &syscall.SysProcAttr{}
	}
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := ns.Start(cmd); err != nil {
		return result{}, err
	}
	return finish(cmd, &stdout, &stderr)
}

// tail is the last lines of a text.
func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	if len(all) > lines {
		all = append([]string{"(" + strconv.Itoa(len(all)-lines) + " lines before)\n"}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "")
}
