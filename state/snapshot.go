package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/splitd/splitd/traffic"
)

// snapshotFormat is the number of the layout of Snapshot.
const snapshotFormat = 1

// Snapshot is what `splitd restore` needs to put the last state into the kernel
// at boot, without configuration, daemon and database; and what a start without
// the database knows of the relay's splits, which nobody else has.
type Snapshot struct {
	SavedAt     time.Time            `json:"saved_at"`
	Splits      []traffic.Split      `json:"splits"`  // the kernel's, with the weights in force and their generations
	Relayed     []traffic.Split      `json:"relayed"` // the relay's, likewise; nil: nothing is said of them
	ReturnPaths []traffic.ReturnPath `json:"return_paths"`
	// The netfilter settings that they were applied with.
	MarkMask     uint32 `json:"mark_mask"`
	RouteTable   int    `json:"route_table"`
	RulePriority int    `json:"rule_priority"`
}

type snapshotFile struct {
	Format int `json:"format"`
	Snapshot
}

// SnapshotChange is what has changed in a Snapshot since.
type SnapshotChange struct {
	SavedAt time.Time       `json:"saved_at"`
	Splits  []traffic.Split `json:"splits"` // in the place of those of the same names
	Relayed []traffic.Split `json:"relayed,omitempty"`
}

// SnapshotFile writes the snapshot at a path: whole in the place of the one
// before, or what has changed behind it, a line each. At every moment, also
// after a power cut, a state that was saved is there. For one goroutine; one
// writer at a time.
type SnapshotFile struct {
	path  string
	file  *os.File // nil: what is there is not ours to go on from
	whole int64    // bytes
	size  int64    // with the changes behind it
}

// NewSnapshotFile touches nothing.
func NewSnapshotFile(path string) *SnapshotFile { return &SnapshotFile{path: path} }

// ErrWriteWhole says that a change cannot be appended: the snapshot was not
// written by this process, is not there any more, or has grown to twice its size.
var ErrWriteWhole = errors.New("write the snapshot whole")

// growthLeast is up to how many bytes of changes the smallest snapshot takes.
const growthLeast = 64 << 10

// Replace writes the snapshot (mode 0640) in the place of the one before. After
// an error the one before is there with its changes, and Extend may go on.
func (f *SnapshotFile) Replace(s Snapshot) error {
	text, err := seal(snapshotFile{Format: snapshotFormat, Snapshot: s})
	if err != nil {
		return fmt.Errorf("encode snapshot %q: %w", f.path, err)
	}
	text = append(text, '\n')
	if err := os.MkdirAll(filepath.Dir(f.path), 0o750); err != nil {
		return fileError("write snapshot", f.path, err)
	}
	if err := replace(f.path, text); err != nil {
		return fileError("write snapshot", f.path, err)
	}
	f.leave()
	if file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND, 0); err == nil { // else the next is written whole, too
		f.file, f.whole, f.size = file, int64(len(text)), int64(len(text))
	}
	return nil
}

// Append writes a change behind the snapshot. A process may die from there on;
// for a power cut it is there after Sync. After ErrWriteWhole nothing was written.
func (f *SnapshotFile) Append(c SnapshotChange) error { return f.append(c, false) }

// Extend is Append beyond the size that the changes may grow to: on a full disk
// a line may fit where Replace, which needs room for a second file, does not.
func (f *SnapshotFile) Extend(c SnapshotChange) error { return f.append(c, true) }

func (f *SnapshotFile) append(c SnapshotChange, beyond bool) error {
	text, err := seal(c)
	if err != nil {
		return fmt.Errorf("encode change of snapshot %q: %w", f.path, err)
	}
	text = append(text, '\n')
	grown := f.size+int64(len(text)) > f.whole+max(f.whole, growthLeast)
	if !f.continues() || grown && !beyond {
		return ErrWriteWhole
	}
	if _, err = f.file.Write(text); err != nil {
		_ = f.file.Truncate(f.size) // what was torn is not read anyway
		f.leave()
		return fileError("write snapshot", f.path, err)
	}
	f.size += int64(len(text))
	return nil
}

// Sync returns when the disk has what was appended. After an error the next
// change is written whole.
func (f *SnapshotFile) Sync() error {
	if f.file == nil {
		return nil // Replace has synced what it wrote
	}
	if err := f.file.Sync(); err != nil {
		f.leave()
		return fileError("write snapshot", f.path, err)
	}
	return nil
}

// continues says whether the file is the one that we have written.
func (f *SnapshotFile) continues() bool {
	if f.file == nil {
		return false
	}
	ours, err := f.file.Stat()
	if err != nil || ours.Size() != f.size {
		return false
	}
	there, err := os.Stat(f.path)
	return err == nil && os.SameFile(ours, there)
}

func (f *SnapshotFile) leave() {
	if f.file != nil {
		_ = f.file.Close() // who needs it on the disk has synced it
		f.file = nil
	}
}

// Close gives the file up.
func (f *SnapshotFile) Close() error {
	f.leave()
	return nil
}

// ReadSnapshot reads it back. The errors are ErrCorrupt, also for a snapshot
// of another version of splitd, fs.ErrNotExist, or the file system's own.
func ReadSnapshot(path string) (Snapshot, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Snapshot{}, fileError("read snapshot", path, err)
	}
	s, err := parseSnapshot(text)
	if err != nil {
		return Snapshot{}, fmt.Errorf("read snapshot %q: %w: remove it: `splitd run` writes a new one", path, err)
	}
	return s, nil
}

// parseSnapshot is strict: what is restored at boot, unseen, must be understood
// whole. Only a last change that a crash tore may be missing, which has no end
// of line, or zeros where a block of it did not reach the disk before others:
// nobody who lowered was told that it was saved.
func parseSnapshot(text []byte) (Snapshot, error) {
	whole, changes, err := cutSnapshot(text)
	if err != nil {
		return Snapshot{}, err
	}
	s, err := parseWhole(whole)
	if err != nil || len(changes) == 0 {
		return s, err
	}
	inKernel, relayed := places(s.Splits), places(s.Relayed)
	for n, line := range changes {
		var raw json.RawMessage
		if err := unseal(line, &raw); err != nil {
			if n == len(changes)-1 && (text[len(text)-1] != '\n' || bytes.IndexByte(line, 0) >= 0) {
				break
			}
			return Snapshot{}, corrupt("change %d behind it: %w", n+1, err)
		}
		var c SnapshotChange
		if err := decode(raw, &c, true); err != nil {
			return Snapshot{}, corrupt("change %d behind it: %w", n+1, err)
		}
		s.SavedAt = c.SavedAt
		if err := errors.Join(put(s.Splits, inKernel, c.Splits), put(s.Relayed, relayed, c.Relayed)); err != nil {
			return Snapshot{}, corrupt("change %d behind it is %w", n+1, err)
		}
	}
	return s, nil
}

// places are where the splits stand, by name.
func places(splits []traffic.Split) map[string]int {
	at := make(map[string]int, len(splits))
	for i, split := range splits {
		at[split.Name] = i
	}
	return at
}

// put replaces those of the splits that have changed.
func put(splits []traffic.Split, at map[string]int, changed []traffic.Split) error {
	for _, split := range changed {
		i, known := at[split.Name]
		if !known {
			return fmt.Errorf("of %q, which is not in it", split.Name)
		}
		splits[i] = split
	}
	return nil
}

// cutSnapshot tells the snapshot, which may be indented, from the lines behind it.
func cutSnapshot(text []byte) (whole []byte, changes [][]byte, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	var raw json.RawMessage
	if err := decoder.Decode(&raw); err != nil {
		return nil, nil, corrupt("%w", err)
	}
	end := decoder.InputOffset()
	for line := range bytes.Lines(text[end:]) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			changes = append(changes, line)
		}
	}
	return text[:end], changes, nil
}

func parseWhole(text []byte) (Snapshot, error) {
	var raw json.RawMessage
	if err := unseal(text, &raw); err != nil {
		return Snapshot{}, corrupt("%w", err)
	}
	var format struct {
		Format int `json:"format"`
	}
	if err := decode(raw, &format, false); err != nil {
		return Snapshot{}, corrupt("%w", err)
	}
	if format.Format != snapshotFormat {
		return Snapshot{}, corrupt("another version of splitd wrote it (format %d, this one knows %d)", format.Format, snapshotFormat)
	}
	var file snapshotFile
	if err := decode(raw, &file, true); err != nil {
		return Snapshot{}, corrupt("%w", err)
	}
	return file.Snapshot, nil
}
