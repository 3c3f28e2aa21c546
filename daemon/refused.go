package daemon

import (
	"fmt"
	"strings"

	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/state"
)

// reloaded is what became of the newest reload.
type reloaded struct {
	metrics.Reload
	name string // of the file that `apply -f` sent; "": the daemon's own files
}

// refused says what to type about a reload that was refused. Where `apply -f`
// sent what runs, a plain apply would take that down.
func (r reloaded) refused(running state.Running, sources string) string {
	switch {
	case r.name == stdinName:
		return fmt.Sprintf("the newest reload, of %s, was refused and what ran before runs on: `%s` with that text tries again, or says why", r.name, applyNamed(r.name))
	case r.name != "":
		return fmt.Sprintf("the newest reload, of %s, was refused and what ran before runs on: `%s` tries again, or says why", r.name, applyNamed(r.name))
	case running.Text != "":
		return fmt.Sprintf("the newest reload, of %s, was refused and %s runs on: `%s` keeps it; `splitctl apply` says why, and runs the files in its place as soon as they are good",
			sources, running.Name, applyLine(running))
	}
	return "the newest reload was refused and what ran before runs on: `splitctl apply` tries again, or says why"
}

// applyLine is the command that takes an edit of what runs.
func applyLine(running state.Running) string {
	if running.Text == "" {
		return "splitctl apply"
	}
	return applyNamed(running.Name)
}

// stdinName is what splitctl calls what it read from there.
const stdinName = "standard input"

func applyNamed(name string) string {
	switch {
	case name == stdinName:
		name = "-"
	case strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }):
		name = "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return "splitctl apply -f " + name
}

// plain says that a shell takes a character as it is.
func plain(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+,:@%", r)
}

// whereToChange says how a key of a split is changed that runs now.
func (d *Daemon) whereToChange(split string) string {
	v := d.view.Load()
	if d.options.Fileless && v.running.Text == "" {
		return "--listen has no flag for that: write the split into a file and start with `splitd run --config FILE`"
	}
	return fmt.Sprintf("change it there (%s) and run `%s`", v.places[split], applyLine(v.running))
}
