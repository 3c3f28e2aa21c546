package ladder

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

// family is a process with so many descendants, each the child of the one before
// and started by a thread that is not its first. It writes their ids and lives until
// its standard input ends.
func family(words []string) error {
	depth, err := strconv.Atoi(words[0])
	if err != nil {
		return err
	}
	line := strconv.Itoa(os.Getpid())
	if depth == 0 {
		fmt.Println(line)
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
	runtime.LockOSThread() // so that the first thread is not the goroutine's
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		child, in, out, err := startFamily(depth - 1)
		if err == nil {
			var below string
			below, err = out.ReadString('\n')
			fmt.Print(line, " ", below)
			_, copied := io.Copy(io.Discard, os.Stdin)
			err = errors.Join(err, copied, in.Close())
			_ = child.Wait() // somebody may have killed it
		}
		ended <- err
	}()
	return <-ended
}

func startFamily(depth int) (*exec.Cmd, io.Closer, *bufio.Reader, error) {
	cmd := exec.Command("/proc/self/exe", familyWord, strconv.Itoa(depth))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	return cmd, in, bufio.NewReader(out), cmd.Start()
}

func TestMemoryIsThatOfAProcessAndOfAllThatItHasStarted(t *testing.T) {
	cmd, in, out, err := startFamily(2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	}()
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var want []int
	for word := range strings.FieldsSeq(line) {
		n, _ := strconv.Atoi(word)
		want = append(want, n)
	}
	if diff := cmp.Diff(want, Family(cmd.Process.Pid)); len(want) != 3 || diff != "" {
		t.Fatalf("%d processes (-want +got):\n%s", len(want), diff)
	}
	all, err := ResidentOf(want[0])
	if err != nil {
		t.Fatal(err)
	}
	below, err := ResidentOf(want[1])
	if err != nil {
		t.Fatal(err)
	}
	one, err := residentOf(want[2])
	if err != nil || one <= 0 || below <= one || all <= below {
		t.Errorf("the last has %d bytes, with its parent %d, with the first %d: %v", one, below, all, err)
	}
	if err := syscall.Kill(want[2], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, "one that has ended has no memory", func() bool {
		n, err := ResidentOf(want[1])
		return err == nil && n <= below-one/2
	})
}

func TestTheMemoryOfAProcessThatHasEndedIsAnError(t *testing.T) {
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if n, err := ResidentOf(cmd.Process.Pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%d, %v", n, err)
	}
}
