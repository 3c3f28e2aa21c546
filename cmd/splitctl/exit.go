package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
)

// The exit codes, in one place. `plan --exit-code` alone means something of
// its own by 1: see differs.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2 // or not available in this version
	exitUnreachable = 3
	exitTimedOut    = 4 // `wait`
	exitRolledBack  = 5
	exitHeld        = 6 // needs a human
	exitConflict    = 7
	exitInterrupted = 130 // 128 + SIGINT, as shells say it
)

// coded is an error that knows its exit code.
type coded struct {
	code  int
	err   error
	quiet bool // it has been said already
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// usage marks an error as the caller's.
func usage(err error) error { return &coded{code: exitUsage, err: err} }

func usagef(format string, args ...any) error { return usage(fmt.Errorf(format, args...)) }

// notAvailable is the answer to what DESIGN.md names and a later version has,
// with what there is instead.
func notAvailable(what, instead string) error {
	return usagef("%s: not available in this version: %s", what, instead)
}

// differs is `plan --exit-code` when the kernel does something else.
func differs() error {
	return &coded{code: exitError, err: errors.New("the kernel differs from the plan"), quiet: true}
}

// exitCode is the exit code of an error.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if c, ok := errors.AsType[*coded](err); ok {
		return c.code
	}
	if refusal, ok := errors.AsType[*api.Error](err); ok {
		return codeOf(refusal.Code)
	}
	if errors.Is(err, client.ErrUnreachable) {
		return exitUnreachable
	}
	return exitError
}

func codeOf(code api.Code) int {
	switch code {
	case api.CodeInvalid, api.CodeUnavailable:
		return exitUsage
	case api.CodeConflict:
		return exitConflict
	case api.CodeFailed, api.CodeNotFound, api.CodeForbidden:
		return exitError
	}
	return exitError
}

// finish says what went wrong, once, and returns the exit code.
func (a *app) finish(err error) int {
	c, ok := errors.AsType[*coded](err)
	if err != nil && (!ok || !c.quiet) {
		a.say(a.paint(styleBad, "splitctl:") + " " + printableLines(err.Error()))
		if ok && c.code == exitUsage && !a.started {
			a.say("run `splitctl --help` for the commands, `splitctl COMMAND --help` for one of them")
		}
	}
	return exitCode(err)
}

// warn tells the operator what is no error, on standard error.
func (a *app) warn(format string, args ...any) {
	a.say(a.paint(styleWarn, "warning:") + " " + printableLines(fmt.Sprintf(format, args...)))
}

// say writes a line of prose.
func (a *app) say(line string) { _, _ = fmt.Fprintln(a.stderr, strings.TrimRight(line, "\n")) }
