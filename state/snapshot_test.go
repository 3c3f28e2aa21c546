package state_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

func TestSnapshotComesBackAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "snapshot.json")
	for generation := range 3 {
		want := snapshot(1)
		want.RulePriority = 5200 + generation
		if err := state.NewSnapshotFile(path).Replace(want); err != nil {
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

// changed is the snapshot with mx at each generation up to the last behind it.
func changed(t testing.TB, path string, last traffic.Generation) *state.SnapshotFile {
	t.Helper()
	f := state.NewSnapshotFile(path)
	t.Cleanup(func() { _ = f.Close() })
	for generation := traffic.Generation(1); generation <= last; generation++ {
		if err := save(f, generation); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestWhatChangedSinceComesBackWithTheSnapshot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot.json")
	changed(t, path, 5)
	got, err := state.ReadSnapshot(path)
	if diff := cmp.Diff(snapshot(5), got, byValue); diff != "" || err != nil {
		t.Errorf("snapshot (-want +got): %v\n%s", err, diff)
	}
	text, _ := os.ReadFile(path)
	if lines := bytes.Count(text, []byte("\n")); lines != 5 {
		t.Errorf("%d lines, want a snapshot and 4 changes", lines)
	}
}

func TestAChangeThatACrashToreWasNeverSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot.json")
	changed(t, path, 3)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	demand := func(what string, text []byte) {
		t.Helper()
		write(t, path, text)
		got, err := state.ReadSnapshot(path)
		if diff := cmp.Diff(snapshot(2), got, byValue); diff != "" || err != nil {
			t.Errorf("%s (-want +got): %v\n%s", what, err, diff)
		}
	}
	for cut := last; cut < len(text)-2; cut++ {
		demand("cut", text[:cut])
		demand("the rest never reached the disk", append(bytes.Clone(text[:cut]), make([]byte, len(text)-cut)...))
		if cut > last {
			demand("the beginning never reached the disk", slices.Concat(text[:last], make([]byte, cut-last), text[cut:]))
		}
	}
	damaged := bytes.Clone(text)
	damaged[last+20] ^= 0x01
	write(t, path, damaged)
	if _, err := state.ReadSnapshot(path); !errors.Is(err, state.ErrCorrupt) {
		t.Errorf("with a last change that is whole but damaged: %v, want ErrCorrupt: it may have been an off", err)
	}
	for cut := last - 2; cut > last-20; cut-- {
		write(t, path, append(bytes.Clone(text[:cut]), text[last-1:]...))
		if _, err := state.ReadSnapshot(path); !errors.Is(err, state.ErrCorrupt) {
			t.Errorf("with a hole before the last change: %v, want ErrCorrupt", err)
		}
	}
}

func TestChangesAreNotWrittenBehindWhatIsNotOurs(t *testing.T) {
	for name, disturb := range map[string]func(path string) error{
		"nothing was there":   nil,
		"it was removed":      os.Remove,
		"it was replaced":     func(path string) error { return state.NewSnapshotFile(path).Replace(snapshot(7)) },
		"somebody wrote into": func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
	} {
		path := filepath.Join(t.TempDir(), "snapshot.json")
		f := state.NewSnapshotFile(path)
		if disturb != nil {
			f = changed(t, path, 2)
			if err := disturb(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Append(state.SnapshotChange{SavedAt: noon}); !errors.Is(err, state.ErrWriteWhole) {
			t.Errorf("%s: Append = %v, want ErrWriteWhole", name, err)
		}
	}
}

func TestASnapshotDoesNotGrowForEver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot.json")
	changed(t, path, 500)
	info, err := os.Stat(path)
	if err != nil || info.Size() > 80<<10 {
		t.Errorf("after 500 changes it has %d bytes, error %v", info.Size(), err)
	}
	if got, err := state.ReadSnapshot(path); err != nil || got.Splits[0].Generation != 500 {
		t.Errorf("read = generation %d, %v", got.Splits[0].Generation, err)
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
	if err := state.NewSnapshotFile(path).Replace(snapshot(1)); err != nil {
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
	if err := state.NewSnapshotFile(path).Replace(snapshot(1)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
