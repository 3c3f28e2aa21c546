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
	"time"
)

// The forced marker: a file of JSON lines, so that two writers at once lose
// nothing. Who takes it moves it first, and removes it when it is recorded.
const (
	forcedName = "off-forced.json"
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
		there, err := appendLine(path, text)
		if err != nil {
			return fileError("write forced marker", path, err)
		}
		if there {
			return nil
		}
	}
}

// appendLine says whether the line went to the file that path still names.
func appendLine(path string, text []byte) (bool, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	// The empty line in front ends a torn one.
	if _, err := file.Write(append(append([]byte{'\n'}, text...), '\n')); err != nil {
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

// ReadForced returns the markers, oldest first, and leaves them there. A line
// that cannot be read counts as all splits: it only lowers.
func ReadForced(dir string) ([]Forced, error) {
	return readForced(append(takenPaths(dir), filepath.Join(dir, forcedName)))
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
	return all, nil
}

// TakeForced returns the markers, oldest first, and puts them aside until
// ForgetForced. It returns the same ones again when the daemon died before it
// recorded them. It needs no room on the disk.
func TakeForced(dir string) ([]Forced, error) {
	path := filepath.Join(dir, forcedName)
	if err := putAside(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fileError("take forced marker", path, err)
	}
	return readForced(takenPaths(dir))
}

// putAside moves the marker to the first name that is free.
func putAside(dir string) error {
	for n := 1; ; n++ {
		taken := filepath.Join(dir, fmt.Sprintf(takenName, n))
		if _, err := os.Lstat(taken); err == nil {
			continue
		}
		if err := os.Rename(filepath.Join(dir, forcedName), taken); err != nil {
			return err
		}
		return syncDir(dir)
	}
}

// takenPaths lists what was put aside, oldest first.
func takenPaths(dir string) []string {
	var paths []string
	for n := 1; ; n++ {
		path := filepath.Join(dir, fmt.Sprintf(takenName, n))
		if _, err := os.Lstat(path); err != nil {
			return paths
		}
		paths = append(paths, path)
	}
}

// ForgetForced removes what TakeForced put aside, once it is recorded.
func ForgetForced(dir string) error {
	// The newest first: a gap would hide what comes behind it.
	paths := takenPaths(dir)
	for _, path := range slices.Backward(paths) {
		if err := os.Remove(path); err != nil {
			return fileError("remove forced marker", path, err)
		}
	}
	if len(paths) == 0 {
		return nil
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
