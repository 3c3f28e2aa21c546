package ladder

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/idle"
	"github.com/splitd/splitd/internal/nettest"
)

// The words that make this test binary the process of a candidate, one whose kernel
// refuses SCHED_IDLE, and those that have processes of their own.
const (
	candidateWord = "serve-candidate"
	refusedWord   = "serve-candidate-without-idle"
	parentWord    = "start-a-candidate-and-die"
	familyWord    = "start-a-family"
)

func TestMain(m *testing.M) {
	var err error
	switch word := append(os.Args, "")[1]; word {
	case candidateWord:
		err = ServeCandidate(os.Args[2:], os.Stdin, os.Stdout)
	case refusedWord:
		err = serveCandidate(os.Args[2:], os.Stdin, os.Stdout, func() (string, error) {
			return yieldBy(func() error { return unix.EPERM }, idle.Yield)
		})
	case parentWord:
		err = parent()
	case familyWord:
		err = family(os.Args[2:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// host starts a candidate as programs do.
func host(t *testing.T, word string, b Behaviour) *Host {
	t.Helper()
	h, err := StartHost(t.Context(), Self(word), b, here(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// schedulings are policy and priority of each thread of a process: fields 41 and 19
// of proc_pid_stat(5), the 39th and the 17th behind the name.
func schedulings(t *testing.T, pid int) []string {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("process %d has %d threads: %v", pid, len(files), err)
	}
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		all = append(all, "nice "+fields[16]+", policy "+fields[38])
	}
	return all
}

func TestACandidateInAProcessOfItsOwnServesAndYields(t *testing.T) {
	for _, tc := range []struct{ word, yields, scheduling string }{
		{candidateWord, "SCHED_IDLE", ", policy 5"},
		{refusedWord, "nice 19 (operation not permitted)", "nice 19,"},
	} {
		h := host(t, tc.word, Healthy)
		if h.Yields() != tc.yields {
			t.Errorf("%s: it yields by %q, want %q", tc.word, h.Yields(), tc.yields)
		}
		for range 2 {
			answer, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + h.Address().String() + "/ladder")
			if err != nil {
				t.Fatal(err)
			}
			_ = answer.Body.Close()
		}
		if n, err := h.Taken(); n != 2 || err != nil {
			t.Errorf("%s: %d connections, %v, want 2", tc.word, n, err)
		}
		for _, is := range schedulings(t, h.cmd.Process.Pid) {
			if !strings.Contains(is, tc.scheduling) {
				t.Errorf("%s: a thread has %s, want %s", tc.word, is, tc.scheduling)
			}
		}
	}
}

func TestEveryCandidateStandsInAProcessOfItsOwn(t *testing.T) {
	for _, b := range Behaviours() {
		if h := host(t, candidateWord, b); !h.Address().IsValid() {
			t.Errorf("%s stands nowhere", b)
		}
	}
}

func TestACandidateThatCannotStandSaysWhy(t *testing.T) {
	for _, tc := range []struct {
		name    string
		program Program
		b       Behaviour
		at      string
		want    string
	}{
		{"no such behaviour", Self(candidateWord), "charming", "127.0.0.1", "no candidate behaves so"},
		{"another's address", Self(candidateWord), Healthy, "192.0.2.1", "cannot assign requested address"},
		{"no program", Program{}, Healthy, "127.0.0.1", "no program serves candidates"},
		{"a program that is not there", Program{Command: []string{"/nowhere/x"}}, Healthy, "127.0.0.1", "no such file"},
		{"one that says something else", Program{Command: []string{"echo"}}, Healthy, "127.0.0.1", `read "healthy 127.0.0.1 1\n" of its process`},
	} {
		h, err := StartHost(t.Context(), tc.program, tc.b, netip.MustParseAddr(tc.at), 1, nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), string(tc.b)) {
			t.Errorf("%s: %v, %v", tc.name, h, err)
		}
	}
	for _, words := range [][]string{nil, {"healthy", "here", "1"}, {"healthy", "127.0.0.1", "one"}} {
		if err := ServeCandidate(words, strings.NewReader(""), nil); err == nil {
			t.Errorf("%q was taken", words)
		}
	}
}

func TestAProcessThatCanNeitherIdleNorBeNiceServesNobody(t *testing.T) {
	refuse := func() error { return unix.EPERM }
	if how, err := yieldBy(refuse, func() error { return errors.New("nor that") }); err == nil || how != "" || !errors.Is(err, unix.EPERM) {
		t.Errorf("%q, %v", how, err)
	}
}

// parent starts a candidate, says its process, and dies without a word to it.
func parent() error {
	h, err := startHost(Self(candidateWord), Hanging, here(), 1, nil)
	if err != nil {
		return err
	}
	if _, err := h.answers.ReadString('\n'); err != nil {
		return err
	}
	fmt.Println(h.cmd.Process.Pid)
	return unix.Kill(os.Getpid(), unix.SIGKILL)
}

func TestACandidatesProcessEndsWithWhoStartedIt(t *testing.T) {
	said, _ := exec.Command("/proc/self/exe", parentWord).Output() // killed
	var pid int
	if _, err := fmt.Sscan(string(said), &pid); err != nil {
		t.Fatalf("%q: %v", said, err)
	}
	nettest.Eventually(t, "the candidate's process ends", func() bool {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || !strings.Contains(string(text), candidateWord)
	})
}
