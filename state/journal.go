package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/splitd/splitd/traffic"
)

// Journal is history.jsonl: one line of JSON an entry, only ever appended to,
// for people and log shippers. It is not synced, and nothing is read back but the
// last number: the Store is the record. It may be moved away at any time (logrotate). Its methods may
// be called from many goroutines.
type Journal struct {
	path string
	mu   sync.Mutex
	file *os.File
	torn bool // the last line has no end
}

// line has the keys of the control API's history entries.
type line struct {
	Sequence    uint64                    `json:"sequence,omitempty"` // none: the store could not record it
	Time        time.Time                 `json:"time"`
	Split       string                    `json:"split"`
	Generation  traffic.Generation        `json:"generation"`
	Action      Action                    `json:"action"`
	PreviousPPM traffic.Weight            `json:"previous_ppm"`
	WeightPPM   traffic.Weight            `json:"weight_ppm"`
	Weights     map[string]traffic.Weight `json:"weights"`
	Undoes      uint64                    `json:"undoes,omitempty"`
	UID         int                       `json:"uid"`
	User        string                    `json:"user,omitempty"`
	SudoUser    string                    `json:"sudo_user,omitempty"`
	PID         int                       `json:"pid,omitempty"`
	Command     string                    `json:"command,omitempty"`
	Reason      string                    `json:"reason,omitempty"`
}

// OpenJournal opens the journal, and makes it (mode 0640) where there is none.
// A last line that a crash tore is left alone; the next entry begins a new one.
func OpenJournal(path string) (*Journal, error) {
	j := &Journal{path: path}
	if err := j.open(); err != nil {
		return nil, fileError("open journal", path, err)
	}
	return j, nil
}

func (j *Journal) open() error {
	if err := os.MkdirAll(filepath.Dir(j.path), 0o750); err != nil {
		return err
	}
	file, err := os.OpenFile(j.path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	torn, err := endsTorn(file)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	j.file, j.torn = file, torn
	return nil
}

func endsTorn(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, info.Size()-1); err != nil {
		return false, err
	}
	return last[0] != '\n', nil
}

// Append writes the entries, each with one write(2).
func (j *Journal) Append(entries ...Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.follow(); err != nil {
		return fileError("append to journal", j.path, err)
	}
	for _, e := range entries {
		text, err := json.Marshal(lineOf(e))
		if err != nil {
			return fmt.Errorf("encode a change of split %q: %w", e.Split, err)
		}
		if j.torn {
			text = append([]byte{'\n'}, text...)
		}
		n, err := j.file.Write(append(text, '\n'))
		j.torn = err != nil && (n > 0 || j.torn)
		if err != nil {
			return fileError("append to journal", j.path, err)
		}
	}
	return nil
}

// follow opens the path again when what we write to is no longer there.
func (j *Journal) follow() error {
	ours, err := j.file.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Stat(j.path); err == nil && os.SameFile(ours, there) {
		return nil
	}
	old := j.file
	if err := j.open(); err != nil {
		return err
	}
	return old.Close()
}

// tailMost is how much of a journal's end LastSequence looks at.
const tailMost = 256 << 10

// LastSequence is the highest number among the newest lines of the journal at
// path; 0 where there is none.
func LastSequence(path string) (uint64, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fileError("read journal", path, err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return 0, fileError("read journal", path, err)
	}
	tail, err := io.ReadAll(io.NewSectionReader(file, max(0, info.Size()-tailMost), tailMost))
	if err != nil {
		return 0, fileError("read journal", path, err)
	}
	return highest(tail), nil
}

// highest is the highest number of the lines that are whole.
func highest(tail []byte) (sequence uint64) {
	for row := range bytes.Lines(tail) {
		var numbered struct {
			Sequence uint64 `json:"sequence"`
		}
		if json.Unmarshal(row, &numbered) == nil {
			sequence = max(sequence, numbered.Sequence)
		}
	}
	return sequence
}

// Close gives the journal up.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}

func lineOf(e Entry) line {
	weights := e.After.Weights
	if weights == nil {
		weights = map[string]traffic.Weight{}
	}
	return line{
		Sequence: e.Sequence, Time: e.Time.UTC(), Split: e.Split, Generation: e.Generation, Action: e.Action,
		PreviousPPM: e.Before.Sum(), WeightPPM: e.After.Sum(), Weights: weights, Undoes: e.Undoes,
		UID: e.UID, User: e.User, SudoUser: e.SudoUser, PID: e.PID, Command: e.Command, Reason: e.Reason,
	}
}
