package state

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/splitd/splitd/traffic"
)

// snapshotFormat is the number of the layout of Snapshot.
const snapshotFormat = 1

// Snapshot is what `splitd restore` needs to put the last state into the kernel
// at boot, without configuration, daemon and database.
type Snapshot struct {
	SavedAt     time.Time            `json:"saved_at"`
	Splits      []traffic.Split      `json:"splits"` // with the weights in force and their generations
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

// WriteSnapshot puts the snapshot at path (mode 0640), in the place of the one
// before: at every moment, also after a power cut, one of them is there whole.
// One writer at a time.
func WriteSnapshot(path string, s Snapshot) error {
	text, err := seal(snapshotFile{Format: snapshotFormat, Snapshot: s})
	if err != nil {
		return fmt.Errorf("encode snapshot %q: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fileError("write snapshot", path, err)
	}
	if err := replace(path, append(text, '\n')); err != nil {
		return fileError("write snapshot", path, err)
	}
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
// whole.
func parseSnapshot(text []byte) (Snapshot, error) {
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
