package netns_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// waitEnv makes this test binary a command that waits for the end of its
// input.
const waitEnv = "NETNS_TEST_WAIT"

func TestMain(m *testing.M) {
	if os.Getenv(waitEnv) != "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	nettest.Main(m)
}

func TestACommandLivesInItsNamespaceUntilThatIsClosed(t *testing.T) {
	ns, err := netns.New("house")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the thread running
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), waitEnv+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := ns.Start(cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			defer func() { _ = stdin.Close() }()
			exit, ok := errors.AsType[*exec.ExitError](cmd.Wait())
			if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Errorf("the command ended with %v, want SIGKILL", exit)
			}
		})
		want := ""
		if err := ns.Do(func() (err error) { want, err = os.Readlink("/proc/thread-self/ns/net"); return err }); err != nil {
			t.Fatal(err)
		}
		got, err := os.Readlink("/proc/" + pid(cmd) + "/ns/net")
		if err != nil || got != want {
			t.Errorf("the command lives in %s, %v; want %s", got, err, want)
		}
	}
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
}

func pid(cmd *exec.Cmd) string { return strconv.Itoa(cmd.Process.Pid) }
