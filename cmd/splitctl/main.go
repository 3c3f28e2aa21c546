// Splitctl is the operator's command: it asks a running splitd over its
// control socket, and changes what it does. Commands that read are nouns and
// need only the right to connect; commands that change are verbs.
//
// It holds no state. The one thing that it does without a daemon, besides
// printing a plan from files, is `off --force`: see force.go.
package main

import (
	"context"
	"io"
	"os"
	"time"
)

func main() { os.Exit(run(context.Background(), osEnv())) }

// env is all that splitctl has of the world, so that a test can give it
// another one.
type env struct {
	args           []string // without the program's own name
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	isTerminal     func(io.Writer) bool
	now            func() time.Time
	zone           *time.Location // of the times in tables
	patience       time.Duration  // with the daemon, where a command has none of its own; 0: client.DefaultTimeout
	rescue         rescue
}

func osEnv() env {
	return env{
		args:       os.Args[1:],
		stdin:      os.Stdin,
		stdout:     os.Stdout,
		stderr:     os.Stderr,
		getenv:     os.Getenv,
		isTerminal: isTerminal,
		now:        time.Now,
		zone:       time.Local,
		rescue:     osRescue(),
	}
}

// isTerminal says whether w is one; a character device is near enough, as
// all that hangs on it is colour.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// run is the program: it returns the exit code.
func run(ctx context.Context, e env) int {
	a := &app{env: e}
	root := a.root()
	root.SetArgs(e.args)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.started {
		err = usage(a.daemons(err))
	}
	return a.finish(err)
}
