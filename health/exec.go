package health

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// outputMax is how much of a command's output is kept: its end.
const outputMax = 1024

// afterKill is how long a killed command's output is waited for: a process that
// left the group may hold it open.
const afterKill = 50 * time.Millisecond

// checkExec runs the command; exit status 0 passes. It has a process group of
// its own, which is killed as a whole when the time is over.
func checkExec(ctx context.Context, t Target) Result {
	cmd := exec.CommandContext(ctx, t.Health.Command[0], t.Health.Command[1:]...)
	output := &tail{}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"SPLITD_SPLIT=" + t.Split,
		"SPLITD_BACKEND=" + t.Backend,
		"SPLITD_ADDRESS=" + t.Address.String(),
		"SPLITD_PORT=" + strconv.Itoa(int(t.Port)),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			return err // it has ended, its number may be another's
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	cmd.WaitDelay = afterKill
	err := cmd.Run()
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		return passed() // what it left running in the background is its own affair
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return failed("%s: still running after %s, killed %s", t.Health.Command[0], t.Health.Timeout, output)
	case ctx.Err() != nil:
		return unknown("%s: given up", t.Health.Command[0])
	case ended:
		return failed("%s: %s %s", t.Health.Command[0], exit.ProcessState, output)
	}
	return unknown("run %v", err) // it never ran, which is not the backend's fault
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - outputMax; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

// String is the last line of it, in parentheses.
func (t *tail) String() string {
	text := printable(lastLine(t.kept))
	if text == "" {
		return ""
	}
	return "(" + text + ")"
}

func lastLine(output []byte) string {
	lines := bytes.FieldsFunc(output, func(r rune) bool { return r == '\n' || r == '\r' })
	for _, line := range slices.Backward(lines) {
		if len(bytes.TrimSpace(line)) > 0 {
			return string(line)
		}
	}
	return ""
}
