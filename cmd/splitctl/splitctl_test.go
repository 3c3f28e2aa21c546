package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/traffic"
)

// inProcess runs splitctl here and returns its exit code and outputs.
func inProcess(t *testing.T, values map[string]string, terminal bool, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), env{
		args: args, stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		getenv: func(name string) string { return values[name] }, isTerminal: func(io.Writer) bool { return terminal },
		now: clock, zone: time.UTC,
	})
	return code, stdout.String(), stderr.String()
}

// daemon serves a scene and returns its socket.
func daemon(t testing.TB, scene ...string) string {
	t.Helper()
	operator, err := sceneOf(scene)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, operator)
	return path
}

// serve answers at the socket until the test ends, or stop is called.
func serve(t testing.TB, path string, operator control.Operator) (stop func()) {
	t.Helper()
	server, err := control.Listen(control.ServerOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, control.Handler(operator, slog.New(slog.DiscardHandler))) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func TestColourIsForTerminalsThatWantIt(t *testing.T) {
	socket := daemon(t, "odd", "mx")
	for _, test := range []struct {
		name     string
		terminal bool
		values   map[string]string
		args     []string
		want     bool
	}{
		{"terminal", true, nil, []string{"status"}, true},
		{"pipe", false, nil, []string{"status"}, false},
		{"NO_COLOR", true, map[string]string{"NO_COLOR": "1"}, []string{"status"}, false},
		{"empty NO_COLOR", true, map[string]string{"NO_COLOR": ""}, []string{"status"}, true},
		{"dumb terminal", true, map[string]string{"TERM": "dumb"}, []string{"status"}, false},
		{"data", true, nil, []string{"status", "-o", "json"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := inProcess(t, test.values, test.terminal, append([]string{"--socket", socket}, test.args...)...)
			if code != exitOK || strings.Contains(stdout+stderr, "\x1b[") != test.want {
				t.Errorf("exit code %d, output %q, errors %q, want colour: %v", code, stdout, stderr, test.want)
			}
			_, plain, _ := inProcess(t, nil, false, append([]string{"--socket", socket}, test.args...)...)
			if diff := cmp.Diff(plain, unpainted(stdout)); diff != "" {
				t.Errorf("without its colour it says something else (-want +got):\n%s", diff)
			}
		})
	}
}

func unpainted(text string) string {
	for _, s := range []style{styleHead, styleGood, styleWarn, styleBad} {
		text = strings.ReplaceAll(text, "\x1b["+string(s)+"m", "")
	}
	return strings.ReplaceAll(text, "\x1b[0m", "")
}

func TestEveryErrorHasItsExitCode(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{io.ErrUnexpectedEOF, 1},
		{&api.Error{Code: api.CodeFailed}, 1},
		{&api.Error{Code: api.CodeNotFound}, 1},
		{&api.Error{Code: api.CodeForbidden}, 1},
		{&api.Error{Code: "of a later version"}, 1},
		{&api.Error{Code: api.CodeInvalid}, 2},
		{&api.Error{Code: api.CodeUnavailable}, 2},
		{notAvailable("wait", "look"), 2},
		{usagef("no"), 2},
		{&client.Unreachable{}, 3},
		{fmt.Errorf("off: %w", &client.Unreachable{Hung: true}), 3},
		{&api.Error{Code: api.CodeConflict}, 7},
		{differs(), 1},
		{aboveOne(io.ErrUnexpectedEOF, true), 2},
		{aboveOne(io.ErrUnexpectedEOF, false), 1},
		{aboveOne(&client.Unreachable{}, true), 3},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("exitCode(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

func TestTheCommandInTheHistoryCanBeTypedAgain(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"off"}, "splitctl off"},
		{[]string{"set", "mx", "5%", "--reason=CHG-1"}, "splitctl set mx 5% --reason=CHG-1"},
		{[]string{"set", "5%", "--reason", "it's $HOME"}, `splitctl set 5% --reason 'it'\''s $HOME'`},
		{[]string{"set", "5%", "--reason", ""}, "splitctl set 5% --reason ''"},
	} {
		if got := commandLine(test.args); got != test.want {
			t.Errorf("commandLine(%q) = %s, want %s", test.args, got, test.want)
		}
	}
}

func TestSplitsAreCompleted(t *testing.T) {
	socket := daemon(t, "plain", "dns", "mx")
	code, stdout, _ := inProcess(t, nil, false, "__complete", "--socket", socket, "off", "")
	if got := strings.Fields(stdout); code != exitOK || len(got) != 3 || got[0] != "dns" || got[1] != "mx" {
		t.Errorf("exit code %d, completions %q", code, stdout)
	}
}

// self is this program as a process of its own.
func self(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	program, err := exec.LookPath("splitctl")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "GORACE="+raceOptions)
	return cmd
}

// raceOptions keeps a program with the race detector in it from sleeping for
// a second before it ends.
const raceOptions = "atexit_sleep_ms=0"

// FuzzParseSet holds that what is understood is one well-formed request.
func FuzzParseSet(f *testing.F) {
	for _, seed := range []string{"5%", "mx 5%", "new=5% other=1/3", "mx new=5%", "default", "default default", "=", "mx = =", "a=b=c", "mx", "5% 5%", "-1%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		name, request, err := parseSet(strings.Split(line, " "))
		if err != nil {
			return
		}
		if name != "" {
			if err := traffic.CheckName(name); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
		asked := 0
		for _, given := range []bool{request.WeightPPM != nil, len(request.Weights) > 0, request.Default} {
			if given {
				asked++
			}
		}
		if asked != 1 {
			t.Errorf("%q asks for %d things: %+v", line, asked, request)
		}
		for candidate, ppm := range request.Weights {
			if traffic.CheckName(candidate) != nil || !traffic.Weight(ppm).Valid() {
				t.Errorf("%q: %q=%d", line, candidate, ppm)
			}
		}
	})
}

// BenchmarkSet measures whole processes, as an operator does: start, ask,
// answer, end. The design allows 20 ms for it.
func BenchmarkSet(b *testing.B) {
	socket := daemon(b, "plain", "mx")
	for n := 0; b.Loop(); n++ {
		out, err := self(b, "set", "--socket", socket, fmt.Sprintf("%d%%", 1+n%2)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "generation") {
			b.Fatalf("set: %v: %s", err, out)
		}
	}
}
