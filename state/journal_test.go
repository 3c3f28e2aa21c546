package state_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

func openJournal(t *testing.T, path string) *state.Journal {
	t.Helper()
	j, err := state.OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

// journalLines returns the lines that are JSON.
func journalLines(t *testing.T, path string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []map[string]any
	for row := range strings.Lines(string(text)) {
		var line map[string]any
		if json.Unmarshal([]byte(row), &line) == nil {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestJournalLinesHaveTheKeysOfTheControlAPI(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	j := openJournal(t, path)
	undo := state.Entry{
		Sequence: 8, Time: noon, Split: "mx", Generation: 16, Action: state.ActionUndo, Undoes: 7, UID: -1,
		Before: state.Side{Weights: map[string]traffic.Weight{"a": 50_000, "b": 1000}},
		After:  state.Side{Weights: map[string]traffic.Weight{"a": 0, "b": 1000}},
	}
	first := set("mx", 15)
	first.Sequence = 7
	removed := state.Entry{Sequence: 9, Time: noon, Split: "mx", Generation: 17, Action: state.ActionRemove, Before: undo.After}
	if err := j.Append(first, undo, removed); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "history.jsonl")
	if *update {
		write(t, golden, got)
	}
	want, err := os.ReadFile(golden)
	if diff := cmp.Diff(string(want), string(got)); diff != "" || err != nil {
		t.Errorf("history.jsonl (-want +got): %v\n%s", err, diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode = %v, %v, want 0640", info.Mode(), err)
	}
}

func TestATornLastLineCostsNoOther(t *testing.T) {
	path := filepath.Join(mount(t, "64m"), "history.jsonl")
	if err := openJournal(t, path).Append(set("mx", 1), set("mx", 2)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(text) + 1 {
		write(t, path, text[:cut])
		before := len(journalLines(t, path))
		j, err := state.OpenJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Append(set("mx", 3)); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		lines := journalLines(t, path)
		if len(lines) != before+1 || lines[before]["generation"] != 3.0 {
			t.Fatalf("cut to %d bytes: %d lines before, then %v", cut, before, lines)
		}
	}
}

func TestJournalFollowsLogrotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	j := openJournal(t, path)
	if err := j.Append(set("mx", 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(set("mx", 2)); err != nil {
		t.Fatal(err)
	}
	if lines := journalLines(t, path); len(lines) != 1 || lines[0]["generation"] != 2.0 {
		t.Errorf("the new file holds %v, want generation 2 alone", lines)
	}
	if lines := journalLines(t, path+".1"); len(lines) != 1 || lines[0]["generation"] != 1.0 {
		t.Errorf("the old file holds %v, want generation 1 alone", lines)
	}
}

func TestTheLastNumberOfAJournalIsFound(t *testing.T) {
	long := strings.Repeat("x", 300<<10)
	for name, tt := range map[string]struct {
		text string
		want uint64
	}{
		"none":                    {"", 0},
		"the last line":           {"{\"sequence\":7}\n{\"sequence\":8}\n", 8},
		"one that was torn":       {"{\"sequence\":7}\n{\"seque", 7},
		"one without a number":    {"{\"sequence\":7}\n{\"split\":\"mx\"}\n", 7},
		"no number of ours":       {"{\"sequence\":-1}\n[3]\nnull\n\"x\"\n", 0},
		"behind what is too long": {"{\"sequence\":3}\n" + long + "\n{\"sequence\":9}\n", 9},
	} {
		path := filepath.Join(t.TempDir(), "history.jsonl")
		write(t, path, []byte(tt.text))
		if got, err := state.LastSequence(path); got != tt.want || err != nil {
			t.Errorf("%s: LastSequence = %d, %v, want %d", name, got, err, tt.want)
		}
	}
	if got, err := state.LastSequence(filepath.Join(t.TempDir(), "none")); got != 0 || err != nil {
		t.Errorf("without a journal LastSequence = %d, %v", got, err)
	}
}

// What somebody wrote into the journal must not keep a daemon from starting.
func FuzzLastSequence(f *testing.F) {
	f.Add([]byte("{\"sequence\":7}\n{\"seque"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "history.jsonl")
		write(t, path, text)
		if _, err := state.LastSequence(path); err != nil {
			t.Errorf("LastSequence = %v", err)
		}
	})
}
