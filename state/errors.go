package state

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// ErrLocked says that another process, or another handle of this one, has the
// store open.
var ErrLocked = errors.New("locked by another process")

// Locked is an ErrLocked that may know who has the lock.
type Locked struct {
	PID     int    // 0: not known, as from another PID namespace
	Program string // its name, comm in proc(5); "" when not known
}

func (l *Locked) Error() string {
	if l.PID == 0 {
		return ErrLocked.Error()
	}
	return fmt.Sprintf("%v, %d (%s)", ErrLocked, l.PID, cmp.Or(l.Program, "?"))
}

// Is says that it is an ErrLocked.
func (l *Locked) Is(target error) bool { return target == ErrLocked } //nolint:errorlint // Is itself compares

// ErrCorrupt says that the store's file cannot be trusted: damaged, truncated,
// not ours, or written by a newer splitd.
var ErrCorrupt = errors.New("unusable")

// ErrGone says that the store's file was removed or replaced while it was open.
var ErrGone = errors.New("removed or replaced by another program")

const (
	cureGone    = "the next raise writes what is in force into the one that is there, or a new one; its history is lost unless you put it back"
	cureLocked  = "another splitd runs on this state_dir: stop it, or give this one its own"
	cureCorrupt = "move it away and start again: splits keep what is in force by kernel and restore.json, or start closed where neither knows"
	cureDenied  = "run as the user that owns it, or set state_dir"
)

// corrupt makes an error of a cause that has to do with the file's content.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrCorrupt, fmt.Errorf(format, args...))
}

// storeError names the store and the cure.
func storeError(verb, path string, cause error) error {
	switch {
	case errors.Is(cause, ErrLocked):
		return fmt.Errorf("%s %q: %w: %s", verb, path, cause, cureLocked)
	case errors.Is(cause, ErrGone):
		return fmt.Errorf("%s %q: %w: %s", verb, path, cause, cureGone)
	case errors.Is(cause, ErrCorrupt):
		return fmt.Errorf("%s %q: %w: %s", verb, path, cause, cureCorrupt)
	}
	return fileError(verb, path, cause)
}

// fileError names a file, and the cure for the troubles that disks have.
func fileError(verb, path string, cause error) error {
	if wrapped, ok := errors.AsType[*fs.PathError](cause); ok {
		cause = wrapped.Err // its path would only repeat ours
	}
	switch {
	case errors.Is(cause, syscall.ENOSPC), errors.Is(cause, syscall.EDQUOT):
		return fmt.Errorf("%s %q: %w: nothing of this was kept: make room on the disk of %q", verb, path, cause, filepath.Dir(path))
	case errors.Is(cause, syscall.EROFS):
		return fmt.Errorf("%s %q: %w: nothing of this was kept: remount the disk of %q for writing", verb, path, cause, filepath.Dir(path))
	case errors.Is(cause, fs.ErrPermission):
		return fmt.Errorf("%s %q: %w: %s", verb, path, cause, cureDenied)
	}
	return fmt.Errorf("%s %q: %w", verb, path, cause)
}
