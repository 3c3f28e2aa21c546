package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

// selfTest is a run of `splitctl shadow --self-test` on a host of its own, with a
// folder for temporary files that nothing else uses.
type selfTest struct {
	t              *testing.T
	cmd            *exec.Cmd
	tmp            string
	stdout, stderr programs.Output
	ended          chan struct{}
	err            error
}

func startSelfTest(t *testing.T, args ...string) *selfTest {
	t.Helper()
	tmp, err := os.MkdirTemp("", "selftest-") //nolint:usetesting // short: the paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	s := &selfTest{t: t, tmp: tmp, ended: make(chan struct{})}
	s.cmd = exec.Command(programs.Path(t, "splitctl"), append([]string{"shadow", "--self-test"}, args...)...)
	s.cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, &s.stderr
	if err := nettest.New(t, "host").Start(s.cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.ended
	})
	return s
}

// exit is its exit code, when it has ended.
func (s *selfTest) exit() int {
	s.t.Helper()
	<-s.ended
	if exit, ok := errors.AsType[*exec.ExitError](s.err); ok {
		return exit.ExitCode()
	}
	if s.err != nil {
		s.t.Fatal(s.err)
	}
	return 0
}

// nothingLeft fails the test when a file or a process is.
func (s *selfTest) nothingLeft() {
	s.t.Helper()
	files, err := os.ReadDir(s.tmp)
	if err != nil || len(files) > 0 {
		s.t.Errorf("it left files: %v, %v", files, err)
	}
	entries, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, entry := range entries {
		if environment, err := os.ReadFile(entry); err == nil && bytes.Contains(environment, []byte("TMPDIR="+s.tmp)) {
			s.t.Errorf("it left the process %s", entry)
		}
	}
}

// The rate is one that any machine has. What times are found is not judged: whatever the candidate does, no
// client sees an error or another's byte, and memory has its bound.
func TestTheSelfTestClimbsTheWholeLadderAndNoClientSeesAnError(t *testing.T) {
	s := startSelfTest(t, "--for", "12s", "--rate", "500", "-o", "json")
	code := s.exit()
	var answer struct {
		Kind    string  `json:"kind"`
		Rate    float64 `json:"rate"`
		Yields  string  `json:"candidates_yield"`
		Verdict string  `json:"verdict"`
		Holds   bool    `json:"holds"`
		Rungs   []rung  `json:"rungs"`
	}
	if err := json.Unmarshal([]byte(s.stdout.String()), &answer); err != nil {
		t.Fatalf("%v\n%s%s", err, s.stdout.String(), s.stderr.String())
	}
	want, known := map[string]int{"holds": 0, "does not hold": 1, "cannot tell": 6}[answer.Verdict]
	if answer.Kind != "ShadowSelfTest" || answer.Rate != 500 || answer.Yields == "" || !known || code != want || (code == 0) != answer.Holds {
		t.Errorf("kind %q, %v requests/s, verdict %q, holds %v, candidates yield by %q, exit %d", answer.Kind, answer.Rate, answer.Verdict, answer.Holds, answer.Yields, code)
	}
	var rungs []string
	for _, r := range answer.Rungs {
		rungs = append(rungs, r.Candidate)
		if r.Rate <= 0 || r.Rate > 500 {
			t.Errorf("%s: %v requests/s", r.Candidate, r.Rate)
		}
		r.harmsNobody(t)
	}
	all := []string{"healthy", "dead", "refusing", "blackholed", "hanging", "dripping", "flooding", "resetting", "differing"}
	if !slices.Equal(rungs, all) {
		t.Errorf("rungs %q, want %q", rungs, all)
	}
	s.nothingLeft()
}

func TestTheTableHasARowForEachCandidateAndAVerdict(t *testing.T) {
	s := startSelfTest(t, "--for", "5s", "--rate", "500")
	code := s.exit()
	text := s.stdout.String()
	for _, want := range []string{"CANDIDATE", "\nhealthy ", "\ndead ", "\nrefusing ", "\nblackholed ", "\nhanging ", "\ndripping ", "\nflooding ", "\nresetting ", "\ndiffering "} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s%s", want, text, s.stderr.String())
		}
	}
	for verdict, want := range map[string]int{"holds": 0, "does not hold": 1, "cannot tell": 6} {
		if strings.Contains(text, "\n"+verdict+": ") != (code == want) {
			t.Errorf("exit %d and the verdict do not agree:\n%s", code, text)
		}
	}
}

func TestAnInterruptedSelfTestLeavesNothing(t *testing.T) {
	s := startSelfTest(t, "--for", "10m")
	nettest.Eventually(t, "a splitd of its own", func() bool {
		sockets, _ := filepath.Glob(filepath.Join(s.tmp, "splitd-ladder-*", "splitd.sock"))
		return len(sockets) > 0
	})
	_ = s.cmd.Process.Signal(unix.SIGINT)
	if code := s.exit(); code != 130 || !strings.Contains(s.stderr.String(), "interrupted") {
		t.Errorf("exit %d: %s", code, s.stderr.String())
	}
	s.nothingLeft()
}

// A rung is what the self-test says of one candidate.
type rung struct {
	Candidate   string  `json:"candidate"`
	Rate        float64 `json:"rate"`
	Requests    int     `json:"requests"`
	Failed      int     `json:"failed"`
	Strays      int     `json:"strays"`
	Why         string  `json:"first_failure"`
	Shadowed    int64   `json:"shadowed_exchanges"`
	SeenInto    int     `json:"seen_into_flows"`
	Connections int     `json:"candidate_connections"`
	Memory      struct {
		Before int64   `json:"before_bytes"`
		Peaks  []int64 `json:"peak_bytes"`
		Bound  int64   `json:"bound_bytes"`
	} `json:"memory"`
	Broken []string `json:"broken"`
}

// harmsNobody wants all but times to be as it should.
func (r rung) harmsNobody(t *testing.T) {
	t.Helper()
	if r.Requests == 0 || r.Failed != 0 || r.Strays != 0 {
		t.Errorf("%s: %d requests, %d failed, %d strays: %s", r.Candidate, r.Requests, r.Failed, r.Strays, r.Why)
	}
	if r.Memory.Before <= 0 || len(r.Memory.Peaks) == 0 || slices.Max(r.Memory.Peaks) > r.Memory.Bound {
		t.Errorf("%s: memory %+v", r.Candidate, r.Memory)
	}
	if r.Shadowed == 0 {
		t.Errorf("%s: nothing was shadowed", r.Candidate)
	}
	if listens := r.Candidate != "dead" && r.Candidate != "blackholed"; listens != (r.Connections > 0) {
		t.Errorf("%s: the candidate has seen %d connections", r.Candidate, r.Connections)
	}
	for _, why := range r.Broken {
		if !strings.HasPrefix(why, "p50 ") && !strings.HasPrefix(why, "p99 ") {
			t.Errorf("%s: %s", r.Candidate, why)
		}
	}
}
