package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// The forced marker: files of JSON lines, so that two writers at once lose
// nothing. Mostly there is one; a spare that became a marker beside another one
// has a number in its name. Who takes them moves them first, and removes them
// when they are recorded.
const (
	forcedName = "off-forced.json"
	extraName  = "off-forced-%d.json"
	takenName  = "off-forced.taken-%d.json"
)

// Forced says that `off --force` rewrote the kernel while no daemon could
// record it: run and restore must not raise those splits again.
type Forced struct {
	Splits   []string  `json:"splits"` // nil: all of them
	Time     time.Time `json:"time"`
	UID      int       `json:"uid"`
	User     string    `json:"user,omitempty"`
	SudoUser string    `json:"sudo_user,omitempty"` // claimed, not proven
	PID      int       `json:"pid,omitempty"`
	Command  string    `json:"command,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

// Covers says whether the split was forced off.
func (f Forced) Covers(split string) bool {
	return f.Splits == nil || slices.Contains(f.Splits, split)
}

// WriteForced leaves the marker in the state directory. Write it before the
// daemon is ended: whoever restarts that daemon may be quicker than we are.
func WriteForced(dir string, f Forced) error {
	path := filepath.Join(dir, forcedName)
	f.Time = f.Time.UTC()
	text, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode forced marker %q: %w", path, err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fileError("write forced marker", path, err)
	}
	// Somebody may take the file between open and write: then again. Twice
	// honoured is harmless, lost is not.
	for {
		there, err := appendLine(path, os.O_CREATE, text)
		if err != nil {
			return fileError("write forced marker", path, err)
		}
		if there {
			return nil
		}
	}
}

// appendLine says whether the line went to the file that path still names. A
// line that does not fit on the disk is not there at all.
func appendLine(path string, create int, text []byte) (bool, error) {
	// Root writes here, in a directory that may be a user's.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW|create, 0o640)
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	// The empty line in front ends a torn one.
	if err := appendWhole(file, append(append([]byte{'\n'}, text...), '\n')); err != nil {
		return false, err
	}
	if err := errors.Join(file.Sync(), syncDir(filepath.Dir(path))); err != nil {
		return false, err
	}
	ours, err := file.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(ours, now), nil
}

// appendWhole appends all of the text or nothing. Those who append wait for one
// another (flock(2)), so that what is cut off again is never another's.
func appendWhole(file *os.File, text []byte) error {
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	defer func() { _ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN) }()
	before, err := file.Stat()
	if err != nil {
		return err
	}
	if n, err := file.Write(text); err != nil {
		if n > 0 {
			err = errors.Join(err, file.Truncate(before.Size()))
		}
		return err
	}
	return nil
}

// ReadForced returns the markers, oldest first, and leaves them there. A line
// that cannot be read counts as all splits: it only lowers.
func ReadForced(dir string) ([]Forced, error) {
	fresh, taken, err := markers(dir)
	if err != nil {
		return nil, err
	}
	return readForced(append(taken, fresh...))
}

func readForced(paths []string) ([]Forced, error) {
	var all []Forced
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fileError("read forced marker", path, err)
		}
		all = append(all, parseForced(text)...)
	}
	slices.SortStableFunc(all, func(a, b Forced) int { return a.Time.Compare(b.Time) })
	return all, nil
}

// TakeForced returns the markers, oldest first, and puts them aside until
// ForgetForced. It returns the same ones again when the daemon died before it
// recorded them. It needs no room on the disk; a marker that cannot be put
// aside (read-only disk) is returned as well, and stays for the next time:
// honoured twice is harmless.
func TakeForced(dir string) ([]Forced, error) {
	fresh, _, err := markers(dir)
	if err != nil {
		return nil, err
	}
	for _, path := range fresh {
		// What could not be moved is read where it is.
		_ = putAside(path)
	}
	return ReadForced(dir)
}

// putAside moves the marker to the first name that is free. Should a power cut
// take that back, the marker is where it was.
func putAside(path string) error {
	for n := 1; ; n++ {
		taken := filepath.Join(filepath.Dir(path), fmt.Sprintf(takenName, n))
		if _, err := os.Lstat(taken); err != nil {
			return os.Rename(path, taken)
		}
	}
}

// markers lists the paths of the markers: those that nobody has taken and
// those that somebody has.
func markers(dir string) (fresh, taken []string, err error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fileError("look for forced markers in", dir, err)
	}
	for _, file := range files {
		path := filepath.Join(dir, file.Name())
		switch {
		case file.Name() == forcedName, numbered(file.Name(), extraName):
			fresh = append(fresh, path)
		case numbered(file.Name(), takenName):
			taken = append(taken, path)
		}
	}
	return fresh, taken, nil
}

// numbered says whether the name is the pattern with a number in it.
func numbered(name, pattern string) bool {
	var n int
	_, err := fmt.Sscanf(name, pattern, &n)
	return err == nil && name == fmt.Sprintf(pattern, n)
}

// ForgetForced removes what TakeForced put aside, once it is recorded.
func ForgetForced(dir string) error {
	_, taken, err := markers(dir)
	if err != nil || len(taken) == 0 {
		return err
	}
	for _, path := range taken {
		if err := os.Remove(path); err != nil {
			return fileError("remove forced marker", path, err)
		}
	}
	if err := syncDir(dir); err != nil {
		return fileError("remove forced markers in", dir, err)
	}
	return nil
}

func parseForced(text []byte) []Forced {
	var all []Forced
	for row := range bytes.Lines(text) {
		if row = bytes.TrimSpace(row); len(row) == 0 {
			continue
		}
		var f Forced
		if err := decode(row, &f, false); err != nil {
			f = Forced{UID: -1, Reason: fmt.Sprintf("unreadable marker: %v", err)}
		}
		all = append(all, f)
	}
	return all
}
