package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/internal/process"
)

// TestMain makes the test binary splitctl itself, and a splitd that keeps its
// splits in memory and moves no packet.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"splitctl": func() {
			e := osEnv()
			e.zone = time.UTC
			if text := e.getenv("TEST_PATIENCE"); text != "" {
				e.patience, _ = time.ParseDuration(text)
			}
			if kernel := e.getenv("TEST_KERNEL"); kernel != "" {
				e.rescue = fileRescue(kernel)
			}
			os.Exit(run(context.Background(), e))
		},
		"splitd": func() { os.Exit(splitd()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		UpdateScripts:      os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("SPLITD_CONTROL_SOCKET", filepath.Join(e.WorkDir, "s"))
			e.Values[daemonKey{}] = new(background)
			e.Setenv("GORACE", raceOptions)
			e.Setenv("TEST_KERNEL", filepath.Join(e.WorkDir, "kernel.json"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon":  daemonCommand,
			"start":   startCommand,
			"killed":  killedCommand,
			"exits":   exitsCommand,
			"freeze":  freezeCommand,
			"elapsed": elapsedCommand,
			"json":    jsonCommand,
		},
	})
}

// daemonCommand serves the named splits ("mx", "mx:new,other") from within
// the test: `daemon mx dns`. A leading word chooses a scene: see scenes.
func daemonCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: daemon SCENE SPLIT...")
	}
	operator, err := sceneOf(args)
	ts.Check(err)
	server, err := control.Listen(control.ServerOptions{Path: ts.Getenv("SPLITD_CONTROL_SOCKET")})
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, control.Handler(operator, slog.New(slog.DiscardHandler))) }()
	ts.Defer(func() {
		cancel()
		ts.Check(<-ended)
	})
}

// splitd is a daemon in a process of its own, with the same scenes.
func splitd() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path := os.Getenv("SPLITD_CONTROL_SOCKET")
	scene := os.Args[1:]
	if i := slices.IndexFunc(scene, func(word string) bool { return strings.HasPrefix(word, "--") }); i >= 0 {
		scene = scene[:i] // the others are for those who look at the process
	}
	operator, err := sceneOf(scene)
	var server *control.Server
	if err == nil {
		server, err = control.Listen(control.ServerOptions{Path: path})
	}
	if err == nil {
		err = server.Run(ctx, control.Handler(operator, slog.New(slog.DiscardHandler)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// exitsCommand runs a program and wants this exit code: `exits 2 splitctl x`.
func exitsCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENT...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s\nstdout: %s\nstderr: %s", code, args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// daemonKey finds the splitd that a script has started.
type daemonKey struct{}

// startCommand starts a splitd in a process of its own: `start plain mx`. It
// may have variables in front and flags behind that only its process shows.
func startCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: start SCENE SPLIT...")
	}
	program := ""
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "splitd")); err == nil && program == "" {
			program = filepath.Join(dir, "splitd")
		}
	}
	path := ts.Getenv("SPLITD_CONTROL_SOCKET")
	first := slices.IndexFunc(args, func(word string) bool { return !strings.Contains(word, "=") })
	cmd := exec.Command(program, args[first:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(append(os.Environ(), "SPLITD_CONTROL_SOCKET="+path), args[:first]...)
	cmd.Stderr = os.Stderr
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ts.Defer(func() { _ = cmd.Process.Kill() })
	*ts.Value(daemonKey{}).(*background) = background{cmd.Process, ended}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Lstat(path); err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("splitd does not listen")
		}
		time.Sleep(time.Millisecond)
	}
}

type background struct {
	process *os.Process
	ended   <-chan error
}

// killedCommand wants that the splitd of the script has been killed.
func killedCommand(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case err := <-ts.Value(daemonKey{}).(*background).ended:
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			ts.Fatalf("splitd ended with %v, not by SIGKILL", err)
		}
	case <-time.After(10 * time.Second):
		ts.Fatalf("splitd lives")
	}
}

// freezeCommand stops the splitd of the script with SIGSTOP.
func freezeCommand(ts *testscript.TestScript, _ bool, _ []string) {
	process := ts.Value(daemonKey{}).(*background).process
	ts.Check(process.Signal(syscall.SIGSTOP))
	for deadline := time.Now().Add(10 * time.Second); ; {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process.Pid))
		ts.Check(err)
		if strings.Contains(string(text), ") T ") {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("process %d does not stop", process.Pid)
		}
	}
}

// elapsedCommand runs a command and wants it to be done in time:
// `elapsed 2s exits 0 splitctl off --force`.
func elapsedCommand(ts *testscript.TestScript, neg bool, args []string) {
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	begin := time.Now()
	exitsCommand(ts, neg, args[1:])
	if took := time.Since(begin); took > limit+raceAllowance {
		ts.Fatalf("it took %v, over %v", took, limit+raceAllowance)
	}
}

// jsonCommand compares two files as JSON, whatever their blanks:
// `json stdout want.json`.
func jsonCommand(ts *testscript.TestScript, neg bool, args []string) {
	var texts [2]string
	for i, name := range args {
		var value any
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(name)), &value))
		text, err := json.MarshalIndent(value, "", " ")
		ts.Check(err)
		texts[i] = string(text)
	}
	if (texts[0] == texts[1]) == neg {
		ts.Fatalf("%s:\n%s\n%s:\n%s", args[0], texts[0], args[1], texts[1])
	}
}

// fileRescue rewrites a file that stands for the kernel; the disk and the
// processes are real.
func fileRescue(kernel string) rescue {
	type table struct {
		StateDir string                       `json:"state_dir"`
		Include  string                       `json:"include"`
		Splits   map[string]map[string]uint64 `json:"splits"` // generation, ppm
		Denied   bool                         `json:"denied"`
	}
	load := func() (t table, err error) {
		text, err := os.ReadFile(kernel)
		if errors.Is(err, os.ErrNotExist) {
			return table{}, nil
		}
		if err != nil {
			return t, err
		}
		return t, json.Unmarshal(text, &t)
	}
	return rescue{
		permitted: func() error {
			if t, err := load(); err != nil || t.Denied {
				return errors.Join(err, errors.New("rewriting the kernel needs CAP_NET_ADMIN"))
			}
			return nil
		},
		stateDir: func() (string, error) {
			t, err := load()
			return t.StateDir, err
		},
		include: func() (string, error) {
			t, err := load()
			return t.Include, err
		},
		mark:   mark,
		holder: func() (int, bool) { return 0, false },
		kill:   func(ctx context.Context, pid int) error { return process.Kill(ctx, pid, daemonProgram) },
		forceOff: func(_ context.Context, split string) (all []forced, err error) {
			t, err := load()
			if err != nil {
				return nil, err
			}
			for _, name := range []string{"dns", "mx"} {
				s, ok := t.Splits[name]
				if !ok || split != "" && split != name {
					continue
				}
				all = append(all, forced{split: name, generation: s["generation"] + 1, previousPPM: int(s["ppm"]), previousSamplePPM: int(s["sample"])})
				s["generation"], s["ppm"] = s["generation"]+1, 0
				delete(s, "sample")
			}
			if split != "" && len(all) == 0 {
				return nil, fmt.Errorf("force off: the kernel has no split %q, it has dns, mx", split)
			}
			text, err := json.Marshal(t)
			if err != nil {
				return nil, err
			}
			return all, os.WriteFile(kernel, append(text, '\n'), 0o600)
		},
	}
}
