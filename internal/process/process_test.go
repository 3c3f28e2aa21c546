package process_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/process"
)

// TestMain makes the test binary the program to be ended: it says that it
// stands and waits for ever.
func TestMain(m *testing.M) {
	if os.Getenv("PROCESS_TEST_WAIT") == "1" {
		_, _ = os.Stdout.WriteString("ready\n")
		select {}
	}
	os.Exit(m.Run())
}

// victim starts a process named splitd that ignores nothing but time.
func victim(t *testing.T) *exec.Cmd {
	t.Helper()
	program := filepath.Join(t.TempDir(), "splitd")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), "PROCESS_TEST_WAIT=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func state(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

func TestKillEndsARunningAndAStoppedProcess(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		cmd := victim(t)
		if stopped {
			if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			nettest.Eventually(t, "the process stands still", func() bool { return state(t, cmd.Process.Pid) == "T" },
				func() any { return state(t, cmd.Process.Pid) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := process.Kill(ctx, cmd.Process.Pid, "splitd"); err != nil {
			t.Fatalf("Kill (stopped %v): %v", stopped, err)
		}
		// Nobody has waited for it yet: gone means ended, not reaped.
		if got := state(t, cmd.Process.Pid); got != "Z" {
			t.Errorf("state after Kill = %s, want Z", got)
		}
		if err := process.Kill(ctx, cmd.Process.Pid, "splitd"); err != nil {
			t.Errorf("Kill of an ended process: %v", err)
		}
		_ = cmd.Wait()
		if err := process.Kill(ctx, cmd.Process.Pid, "splitd"); err != nil {
			t.Errorf("Kill of a process that is no more: %v", err)
		}
	}
}

func TestKillSparesAnotherProgram(t *testing.T) {
	cmd := victim(t)
	err := process.Kill(t.Context(), cmd.Process.Pid, "haproxy")
	if !errors.Is(err, process.ErrOther) || !strings.Contains(err.Error(), "splitd") {
		t.Errorf("Kill = %v, want ErrOther that names what it is", err)
	}
	if got := state(t, cmd.Process.Pid); got == "Z" {
		t.Error("another program was ended")
	}
}
