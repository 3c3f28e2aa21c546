package flowlog

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// File is a Sink that appends to a file, and begins a new one when that was
// renamed or removed, as logrotate does.
type File struct {
	path   string
	file   *os.File
	looked time.Time
	// cut says that the file ends inside a line.
	cut bool
}

// lookEvery is how often the file is looked for at its path.
const lookEvery = time.Second

// OpenFile opens the file at path, mode 0640, and makes it with its directory
// where there is none.
func OpenFile(path string) (*File, error) {
	f := &File{path: path}
	if err := f.Reopen(); err != nil {
		return nil, err
	}
	return f, nil
}

// Write implements Sink.
func (f *File) Write(line []byte) error {
	if now := time.Now(); now.Sub(f.looked) > lookEvery || f.file == nil {
		f.looked = now
		if err := f.renew(); err != nil {
			return err
		}
	}
	if f.cut {
		line = append([]byte("\n"), line...)
	}
	n, err := f.file.Write(line) // a full disk takes a part
	if n > 0 {
		f.cut = line[n-1] != '\n'
	}
	if err != nil {
		return fmt.Errorf("write flow log: %w", err)
	}
	return nil
}

// renew opens the path again when another file, or none, stands there.
func (f *File) renew() error {
	if f.file != nil {
		have, err := f.file.Stat()
		there, missing := os.Stat(f.path)
		if err == nil && missing == nil && os.SameFile(have, there) {
			return nil
		}
	}
	return f.Reopen()
}

// Reopen implements Sink.
func (f *File) Reopen() error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o750); err != nil {
		return fmt.Errorf("open flow log: %w", err)
	}
	file, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open flow log: %w", err)
	}
	_ = f.Close()
	f.file, f.cut = file, endsInside(f.path)
	return nil
}

// endsInside says whether the file ends inside a line: that of a process that
// was killed, or for which there was no room.
func endsInside(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	last := make([]byte, 1)
	_, err = file.ReadAt(last, info.Size()-1)
	return err == nil && last[0] != '\n'
}

// Close implements Sink.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file = nil
	return file.Close()
}
