package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// The spare marker: one block that is on the disk already, so that `off` can
// leave word also when the disk is full. Its empty lines say nothing, wherever
// they come to stand.
const (
	spareName = "off-forced.spare"
	spareSize = 4096
)

// PrepareSpare makes the spare marker where there is none that can be used. It
// needs room for one block; call it at the start and after WriteForcedSpare,
// and not twice at once in the same directory.
func PrepareSpare(dir string) error {
	path := filepath.Join(dir, spareName)
	// Whoever writes to it now holds its lock.
	file, size, err := openSpare(path)
	if errors.Is(err, ErrLocked) {
		return fileError("prepare spare marker", path, errors.New("somebody writes to it"))
	}
	if err == nil {
		defer func() { _ = file.Close() }()
		if size == spareSize {
			return nil
		}
	}
	if err := replace(path, bytes.Repeat([]byte{'\n'}, spareSize)); err != nil {
		return fileError("prepare spare marker", path, err)
	}
	return nil
}

// WriteForcedSpare leaves the marker as WriteForced does, also on a full disk:
// the spare marker is written in place and renamed. What does not fit into it
// is left out, the words first, and then the names of the splits, which means
// all of them: it only lowers. Without a spare it needs room, in the block of
// a marker that is there or in a new one.
func WriteForcedSpare(dir string, f Forced) error {
	f.Time = f.Time.UTC()
	text, err := f.within(spareSize - 2)
	if err != nil {
		return fmt.Errorf("encode forced marker %q: %w", filepath.Join(dir, forcedName), err)
	}
	path := filepath.Join(dir, spareName)
	spareErr := useSpare(path, text)
	if spareErr == nil {
		return nil
	}
	late := WriteForced(dir, f)
	if late == nil || appendToAny(dir, text) {
		return nil
	}
	if errors.Is(spareErr, fs.ErrNotExist) {
		return late
	}
	return fmt.Errorf("%w (and its spare: %w)", late, spareErr)
}

// within encodes the marker so that it is not longer than room.
func (f Forced) within(room int) (text []byte, err error) {
	silent, all := f, f
	silent.Command, silent.Reason = "", ""
	all.Splits = nil
	for _, f := range []Forced{f, silent, all, {Time: f.Time, UID: f.UID, PID: f.PID}} {
		if text, err = json.Marshal(f); err != nil || len(text) <= room {
			return text, err
		}
	}
	return text, err
}

// useSpare makes the spare a marker of this text.
func useSpare(path string, text []byte) error {
	file, _, err := openSpare(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	block := bytes.Repeat([]byte{'\n'}, spareSize)
	copy(block[1:], text)
	if _, err := file.WriteAt(block, 0); err != nil {
		return err
	}
	// The rest of the block is for the lines of others; it is no harm if it
	// cannot be given back.
	_ = file.Truncate(int64(len(text) + 2))
	if err := file.Sync(); err != nil {
		return err
	}
	return become(path)
}

// openSpare opens the spare, takes its lock and tells its size.
func openSpare(path string) (*os.File, int64, error) {
	file, err := openLocked(path)
	if err != nil {
		return nil, 0, err
	}
	ours, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	// Somebody else may have used it while we waited for its lock, or have
	// died before the old name was gone: then it is a marker.
	now, err := os.Lstat(path)
	if err == nil && (!os.SameFile(ours, now) || links(ours) != 1) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, ours.Size(), nil
}

// become gives the spare the first marker's name that is free.
func become(spare string) error {
	dir := filepath.Dir(spare)
	marker := filepath.Join(dir, forcedName)
	for n := 2; ; n++ {
		err := renameTo(spare, marker)
		if err == nil {
			return syncDir(dir)
		}
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		marker = filepath.Join(dir, fmt.Sprintf(extraName, n))
	}
}

// renameTo renames and replaces nothing; link(2) alone can say so in one step.
// Where it cannot be had (file systems without links, no inode left in tmpfs)
// the target is looked for first.
func renameTo(from, to string) error {
	err := os.Link(from, to)
	if err == nil {
		return os.Remove(from)
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return fs.ErrExist
	}
	return os.Rename(from, to)
}

// appendToAny says whether the line went to a marker that has room for it in
// its last block.
func appendToAny(dir string, text []byte) bool {
	fresh, _, err := markers(dir)
	if err != nil {
		return false
	}
	for _, path := range fresh {
		if there, err := appendLine(path, 0, text); there && err == nil {
			return true
		}
	}
	return false
}

// links is the number of names that the file has.
func links(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Nlink)
	}
	return 1
}
