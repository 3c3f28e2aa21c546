package state_test

import (
	"bufio"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// running is a child process; see child.
type running struct {
	t       testing.TB
	cmd     *exec.Cmd
	out     *bufio.Reader
	stopped bool
}

func startChild(t testing.TB, dir string) *running {
	t.Helper()
	cmd := childCommand(t, dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &running{t: t, cmd: cmd, out: bufio.NewReader(out)}
	t.Cleanup(func() { c.kill() })
	if line := c.line(); line != "open" {
		t.Fatalf("the child says %q", line)
	}
	return c
}

func (c *running) line() string {
	c.t.Helper()
	text, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("read from child: %q, %v", text, err)
	}
	return strings.TrimSuffix(text, "\n")
}

// kill ends the child with SIGKILL and returns what it had still printed.
func (c *running) kill() []string {
	if c.stopped {
		return nil
	}
	c.stopped = true
	_ = c.cmd.Process.Kill()
	text, _ := io.ReadAll(c.out)
	_ = c.cmd.Wait()
	return strings.Fields(string(text))
}

// A child is killed at random moments of its commits, at least 100 times, on
// the same files: what it had acknowledged is there, and nothing is torn.
func TestWhatWasAcknowledgedSurvivesKill(t *testing.T) {
	const kills = 120
	dir := mount(t, "64m")
	random := rand.New(rand.NewPCG(1, 2))
	var last traffic.Generation
	for range kills {
		c := startChild(t, dir)
		acknowledged := last
		for range random.IntN(4) {
			acknowledged = generation(t, c.line())
		}
		<-time.After(time.Duration(random.IntN(8_000)) * time.Microsecond)
		for _, text := range c.kill() {
			acknowledged = generation(t, text)
		}
		// The child wrote the snapshot of its last change but one, if any.
		var snapshot traffic.Generation
		if acknowledged > last+1 {
			snapshot = acknowledged - 1
		}
		last = checkAfterKill(t, dir, acknowledged, snapshot)
	}
	if last < kills {
		t.Errorf("only %d changes were made over %d kills: the test tests little", last, kills)
	}
}

func generation(t *testing.T, text string) traffic.Generation {
	t.Helper()
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("the child says %q", text)
	}
	return traffic.Generation(number)
}

func checkAfterKill(t *testing.T, dir string, acknowledged, snapshotted traffic.Generation) traffic.Generation {
	t.Helper()
	s, err := state.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	records, err := s.Records()
	if err != nil {
		t.Fatal(err)
	}
	got := records["mx"].Generation
	if got != acknowledged && got != acknowledged+1 {
		t.Fatalf("generation %d after a kill; %d was acknowledged", got, acknowledged)
	}
	history, err := s.History("mx", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range history {
		if want := got - traffic.Generation(i); e.Generation != want {
			t.Fatalf("history entry %d is of generation %d, want %d", i, e.Generation, want)
		}
	}
	snapshot, err := state.ReadSnapshot(filepath.Join(dir, "snapshot.json"))
	if errors.Is(err, os.ErrNotExist) && snapshotted == 0 {
		return got
	}
	if err != nil {
		t.Fatal(err)
	}
	if saved := snapshot.Splits[0].Generation; saved < snapshotted || saved > got {
		t.Fatalf("the snapshot is of generation %d, want %d to %d", saved, snapshotted, got)
	}
	return got
}
