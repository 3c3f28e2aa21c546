package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
)

// The exit codes of splitd.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// env is everything that run takes from the outside.
type env struct {
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	lookupEnv      func(string) (string, bool)
	uid            int
}

// exit is an error that carries its exit code and, unless err is nil, a text.
type exit struct {
	code int
	err  error
}

func (e exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit %d", e.code)
	}
	return e.err.Error()
}

func (e exit) Unwrap() error { return e.err }

// run carries out one command line and returns its exit code.
func run(ctx context.Context, e env) int {
	root := rootCommand(e)
	root.SetArgs(e.args)
	root.SetIn(e.stdin)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	with, known := errors.AsType[exit](err)
	if !known {
		// Everything that our own commands return is an exit: this is cobra
		// about flags, arguments or an unknown command.
		say(e.stderr, "splitd: %v%s\nrun `splitd --help` for the commands\n", err, operators(e.args))
		return exitUsage
	}
	if with.err != nil {
		say(e.stderr, "splitd: %v\n", with.err)
	}
	return with.code
}

// operators names the program that has the command, where it is the other one.
func operators(args []string) string {
	all := []string{"apply", "doctor", "drain", "history", "off", "plan", "set", "show", "status", "undo", "wait", "where"}
	if len(args) == 0 || !slices.Contains(all, args[0]) {
		return ""
	}
	return fmt.Sprintf(": that is `splitctl %s`", args[0])
}

// say prints for people; nobody is left to tell when that fails.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

func rootCommand(e env) *cobra.Command {
	root := &cobra.Command{
		Use:           "splitd",
		Short:         "Move a share of a service's new connections to another backend, and back",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		runCommand(e), checkCommand(), restoreCommand(e), cleanupCommand(e), demoCommand(e), demoHostCommand(e), shadowerCommand(e), versionCommand(),
	)
	return root
}

// failing turns any error of a command into exit 1.
func failing(fn func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := fn(cmd, args)
		if _, known := errors.AsType[exit](err); err == nil || known {
			return err
		}
		return exit{code: exitError, err: err}
	}
}
