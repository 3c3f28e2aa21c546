package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
)

func TestSnapshotComesBackAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "snapshot.json")
	for generation := range 3 {
		want := snapshot(1)
		want.RulePriority = 5200 + generation
		if err := state.WriteSnapshot(path, want); err != nil {
			t.Fatal(err)
		}
		got, err := state.ReadSnapshot(path)
		if diff := cmp.Diff(want, got, byValue); diff != "" || err != nil {
			t.Errorf("snapshot (-want +got): %v\n%s", err, diff)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if len(left) != 1 || err != nil {
		t.Errorf("the directory holds %v, %v, want the snapshot alone", left, err)
	}
}

func TestSnapshotMayBeIndentedByPeople(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot.json")
	text := snapshotBytes(t, path)
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		t.Fatal(err)
	}
	write(t, path, indented.Bytes())
	if _, err := state.ReadSnapshot(path); err != nil {
		t.Error(err)
	}
}

func TestATornOrChangedSnapshotIsRefusedByName(t *testing.T) {
	path := filepath.Join(mount(t, "64m"), "snapshot.json")
	text := snapshotBytes(t, path)
	demand := func(what string, bad []byte) {
		t.Helper()
		write(t, path, bad)
		_, err := state.ReadSnapshot(path)
		if !errors.Is(err, state.ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want ErrCorrupt naming the file", what, err)
		}
	}
	for cut := range len(text) - 1 { // the last byte is a line's end
		demand("cut", text[:cut])
	}
	for at := range len(text) - 1 {
		bad := bytes.Clone(text)
		bad[at] ^= 0x01
		demand("byte changed", bad)
	}
	demand("doubled", append(bytes.Clone(text), text...))
}

func TestASnapshotThatIsNotThereIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot.json")
	if _, err := state.ReadSnapshot(path); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, state.ErrCorrupt) || !strings.Contains(err.Error(), path) {
		t.Errorf("read = %v, want ErrNotExist naming the file", err)
	}
}

func TestALeftoverOfAKilledWriterDoesNotDisturb(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot.json")
	write(t, path+".tmp", bytes.Repeat([]byte("x"), 1<<16))
	if err := state.WriteSnapshot(path, snapshot(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := state.ReadSnapshot(path); err != nil {
		t.Error(err)
	}
}

func FuzzSnapshot(f *testing.F) {
	path := filepath.Join(f.TempDir(), "snapshot.json")
	f.Add(snapshotBytes(f, path))
	f.Add([]byte(`{"crc32c":"00000000","value":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "snapshot.json")
		write(t, path, text)
		if _, err := state.ReadSnapshot(path); err != nil && !errors.Is(err, state.ErrCorrupt) {
			t.Errorf("read = %v, want ErrCorrupt", err)
		}
	})
}

func snapshotBytes(t testing.TB, path string) []byte {
	t.Helper()
	if err := state.WriteSnapshot(path, snapshot(1)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
