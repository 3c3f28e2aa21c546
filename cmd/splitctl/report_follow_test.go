package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/controltest"
	"github.com/splitd/splitd/internal/nettest"
)

// growing is a daemon whose report grows when the test says so.
type growing struct {
	*controltest.Operator

	played, looks atomic.Int64
}

func growingReport(t *testing.T) *growing {
	t.Helper()
	operator, err := sceneOf([]string{"plain", "mx"})
	if err != nil {
		t.Fatal(err)
	}
	g := &growing{Operator: operator}
	g.played.Store(30)
	operator.ReportOf = func(split string) (json.RawMessage, error) {
		g.looks.Add(1)
		return reportOf(split, played(int(g.played.Load()), 0, false), nil)
	}
	return g
}

// lookedAgain waits until it was looked at again twice: the first look may have
// begun before.
func (g *growing) lookedAgain(t *testing.T) {
	t.Helper()
	before := g.looks.Load()
	nettest.Eventually(t, "two more looks", func() bool { return g.looks.Load() >= before+2 })
}

// pages is an output that may be read while it is written.
type pages struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (p *pages) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *pages) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// following runs `report --follow` until end is called, which returns the exit
// code.
func following(t *testing.T, socket string, terminal bool, args ...string) (stdout, stderr *pages, end func() int) {
	t.Helper()
	stdout, stderr = new(pages), new(pages)
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, env{
			args:  append([]string{"--socket", socket, "report", "mx", "--follow", "--interval", "5ms"}, args...),
			stdin: strings.NewReader(""), stdout: stdout, stderr: stderr, getenv: func(string) string { return "" },
			isTerminal: func(io.Writer) bool { return terminal }, now: clock, zone: time.UTC,
		})
	}()
	t.Cleanup(cancel)
	return stdout, stderr, func() int {
		cancel()
		return <-code
	}
}

func (p *pages) eventually(t *testing.T, text string) {
	t.Helper()
	nettest.Eventually(t, text, func() bool { return strings.Contains(p.String(), text) }, func() any { return p.String() })
}

func TestFollowingPrintsALineWhenSomethingHasChanged(t *testing.T) {
	g, socket := growingReport(t), filepath.Join(t.TempDir(), "s")
	serve(t, socket, g)
	stdout, stderr, end := following(t, socket, false)
	stdout.eventually(t, "compared 30 of 30")
	g.lookedAgain(t)
	g.played.Store(940)
	stdout.eventually(t, "compared 940 of 940")
	g.lookedAgain(t)
	if code := end(); code != exitOK || stderr.String() != "" {
		t.Errorf("exit code %d, errors %q", code, stderr)
	}
	const from = "2026-11-20T14:00:00Z mx: "
	want := from + "undecided: compared 30 of 30, mismatch 0, unanswered 0, noise 0: new answers as old in all of 30 exchanges but for known noise: with 95 % certainty fewer than 11.4 % differ. That is too few to call it the same: it takes 381.\n" +
		from + "same: compared 940 of 940, mismatch 0, unanswered 0, noise 0: new answers as old in all of 940 exchanges but for known noise: with 95 % certainty fewer than 0.407 % differ.\n"
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestFollowingRedrawsATerminal(t *testing.T) {
	g, socket := growingReport(t), filepath.Join(t.TempDir(), "s")
	serve(t, socket, g)
	stdout, _, end := following(t, socket, true)
	stdout.eventually(t, "30        30")
	g.played.Store(940)
	stdout.eventually(t, "940       940")
	if code := end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	screens := strings.Split(stdout.String(), clearScreen)
	if len(screens) != 3 || screens[0] != "" || !strings.HasPrefix(screens[2], "mx: SAME\n") || !strings.Contains(screens[2], "\nfacts\n") {
		t.Errorf("screens: %q", screens)
	}
}

func TestFollowingAsDataIsAStreamOfReports(t *testing.T) {
	for _, test := range []struct{ format, between string }{{"json", "\n"}, {"yaml", "---\n"}} {
		g, socket := growingReport(t), filepath.Join(t.TempDir(), "s")
		serve(t, socket, g)
		stdout, _, end := following(t, socket, false, "-o", test.format)
		stdout.eventually(t, "ShadowReport")
		g.played.Store(940)
		stdout.eventually(t, "all of 940")
		if code := end(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
		reports := strings.Split(strings.TrimSuffix(stdout.String(), "\n"), test.between)
		if len(reports) != 2 {
			t.Fatalf("%s: %d reports, want 2: %q", test.format, len(reports), stdout)
		}
		if test.format == "json" && (!json.Valid([]byte(reports[0])) || !json.Valid([]byte(reports[1]))) {
			t.Errorf("not each line is JSON: %q", reports)
		}
	}
}

func TestFollowingWaitsForADaemonThatRestarts(t *testing.T) {
	g, socket := growingReport(t), filepath.Join(t.TempDir(), "s")
	stop := serve(t, socket, g)
	stdout, stderr, end := following(t, socket, false)
	stdout.eventually(t, "compared 30 of 30")
	stop()
	stderr.eventually(t, "waiting for it")
	g.played.Store(940)
	serve(t, socket, g)
	stdout.eventually(t, "compared 940 of 940")
	if code := end(); code != exitOK || strings.Count(stderr.String(), "waiting for it") != 1 {
		t.Errorf("exit code %d, errors %q, want it said once", code, stderr)
	}
}

func TestFollowingWhatIsNotThereEndsAtOnce(t *testing.T) {
	code, _, stderr := inProcess(t, nil, false, "--socket", filepath.Join(t.TempDir(), "s"), "report", "--follow")
	if code != exitUnreachable {
		t.Errorf("exit code %d, errors %q", code, stderr)
	}
	code, _, stderr = inProcess(t, nil, false, "--socket", daemon(t, "plain", "mx"), "report", "web", "--follow")
	if code != exitError || !strings.Contains(stderr, `there is no split "web"`) {
		t.Errorf("exit code %d, errors %q", code, stderr)
	}
}

func TestASignalEndsFollowingWithoutAnError(t *testing.T) {
	socket := daemon(t, "shadowed", "mx")
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := self(t, "--socket", socket, "report", "mx", "--follow")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || !strings.Contains(line, "mx: differs") {
			t.Errorf("%q, %v", line, err)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
	}
}
