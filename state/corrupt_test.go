package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

const pageSize = 4096

// storeBytes makes a store with branches, inline buckets and free pages.
func storeBytes(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(mount(t, "64m"), "state.db")
	s := openStore(t, path)
	for generation := range traffic.Generation(40) {
		commit(t, s, []state.Record{record("mx", generation+1), record("web", generation+1)}, []state.Entry{set("mx", generation+1), set("web", generation+1)})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// use opens a file and does all that a daemon does with it. Every error must
// be ErrCorrupt; the records are nil unless all could be read.
func use(path string) (map[string]state.Record, error) {
	s, err := state.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Close() }()
	records, err := s.Records()
	_, historyErr := s.History("", 0)
	_, splitErr := s.History("mx", 10)
	_, runningErr := s.Running()
	_, commitErr := s.Commit([]state.Record{record("mx", 100)}, []state.Entry{set("mx", 100)})
	return records, errors.Join(err, historyErr, splitErr, runningErr, commitErr)
}

func write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedStoreIsRefusedAndSaysWhatToDo(t *testing.T) {
	good := storeBytes(t)
	zeros := func(from, to int) []byte {
		bad := bytes.Clone(good)
		clear(bad[from:to])
		return bad
	}
	noise := make([]byte, len(good))
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)
	for name, text := range map[string][]byte{
		"empty":                   {},
		"one byte":                good[:1],
		"text":                    []byte(strings.Repeat("splits: []\n", 3000)),
		"random bytes":            noise,
		"all zeros":               make([]byte, len(good)),
		"both meta pages zeroed":  zeros(0, 2*pageSize),
		"all but meta pages gone": zeros(2*pageSize, len(good)),
		"cut in the meta pages":   good[:pageSize+100],
		"cut behind them":         good[:2*pageSize],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(mount(t, "64m"), "state.db")
			write(t, path, text)
			_, err := state.Open(path)
			if !errors.Is(err, state.ErrCorrupt) {
				t.Fatalf("open = %v, want ErrCorrupt", err)
			}
			message := err.Error()
			if !strings.HasPrefix(message, fmt.Sprintf("open store %q: unusable: ", path)) ||
				!strings.HasSuffix(message, ": move it away and start again: splits keep what is in force by kernel and restore.json, or start closed where neither knows") {
				t.Errorf("error = %q", message)
			}
			if err := os.Rename(path, path+".bad"); err != nil {
				t.Fatal(err)
			}
			openStore(t, path)
		})
	}
}

func TestAStoreCutAtAnyPageIsWholeOrRefused(t *testing.T) {
	good := storeBytes(t)
	path := filepath.Join(mount(t, "64m"), "state.db")
	write(t, path, good)
	want, err := use(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for size := 0; size < len(good); size += pageSize / 2 {
		write(t, path, good[:size])
		got, err := use(path)
		if err != nil {
			refused++
			if !errors.Is(err, state.ErrCorrupt) {
				t.Errorf("cut to %d bytes: %v", size, err)
			}
			continue
		}
		if diff := cmp.Diff(want, got, byValue); diff != "" {
			t.Errorf("cut to %d bytes, records differ (-want +got):\n%s", size, diff)
		}
	}
	if refused == 0 {
		t.Error("no cut was refused")
	}
}

func TestOneZeroedMetaPageLeavesTheLastOrTheOneBefore(t *testing.T) {
	good := storeBytes(t)
	path := filepath.Join(t.TempDir(), "state.db")
	for at := range 2 {
		bad := bytes.Clone(good)
		clear(bad[at*pageSize : (at+1)*pageSize])
		write(t, path, bad)
		records, err := use(path)
		if generation := records["mx"].Generation; err != nil || generation != 40 && generation != 39 {
			t.Errorf("meta page %d zeroed: generation %d, %v", at, generation, err)
		}
	}
}

// Damage anywhere is noticed, or it is where nothing is read.
func TestAFlippedByteIsNeverTakenForAnotherState(t *testing.T) {
	good := storeBytes(t)
	path := filepath.Join(mount(t, "64m"), "state.db")
	write(t, path, good)
	want, err := use(path)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for range 300 {
		bad := bytes.Clone(good)
		at := random.IntN(len(bad))
		if random.IntN(2) == 0 { // the heads of pages hold the structure
			at = at/pageSize*pageSize + random.IntN(128)
		}
		bad[at] ^= byte(1 + random.IntN(255))
		write(t, path, bad)
		got, err := use(path)
		if err != nil {
			refused++
			if !errors.Is(err, state.ErrCorrupt) {
				t.Errorf("byte %d flipped: %v", at, err)
			}
			continue
		}
		// With the newest meta page gone the state before it is in force.
		if generation := got["mx"].Generation; at < 2*pageSize && generation == 39 {
			continue
		}
		if diff := cmp.Diff(want, got, byValue); diff != "" {
			t.Errorf("byte %d flipped, records differ (-want +got):\n%s", at, diff)
		}
	}
	if refused < 20 {
		t.Errorf("only %d of 300 flips were noticed", refused)
	}
}

func TestAValueThatSomeoneChangedIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openStore(t, path)
	commit(t, s, []state.Record{record("mx", 1)}, []state.Entry{set("mx", 1)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	editBolt(t, path, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("records"))
		return b.Put([]byte("mx"), bytes.ReplaceAll(b.Get([]byte("mx")), []byte("50000"), []byte("90000")))
	})
	s = openStore(t, path)
	if _, err := s.Records(); !errors.Is(err, state.ErrCorrupt) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("records = %v, want ErrCorrupt for its checksum", err)
	}
	if entries, err := s.History("mx", 0); len(entries) != 1 || err != nil {
		t.Errorf("history = %v, %v: it is whole", entries, err)
	}
}

// The disk goes bad under a daemon that has the store open: a fault in the
// mapped file would end the process.
func TestDamageUnderAnOpenStoreIsAnErrorAndClosingStillWorks(t *testing.T) {
	good := storeBytes(t)
	noise := make([]byte, len(good))
	_, _ = rand.NewChaCha8([32]byte{2}).Read(noise)
	damages := map[string]func(*os.File) error{
		"cut to nothing":       func(f *os.File) error { return f.Truncate(0) },
		"cut to its meta":      func(f *os.File) error { return f.Truncate(2 * pageSize) },
		"overwritten by zeros": func(f *os.File) error { _, err := f.WriteAt(make([]byte, len(good)), 0); return err },
		"overwritten by noise": func(f *os.File) error { _, err := f.WriteAt(noise, 0); return err },
		"noise behind its meta": func(f *os.File) error {
			_, err := f.WriteAt(noise[2*pageSize:], 2*pageSize)
			return err
		},
	}
	calls := map[string]func(*state.Store) error{
		"records": func(s *state.Store) error { _, err := s.Records(); return err },
		"history": func(s *state.Store) error { _, err := s.History("", 0); return err },
		"commit": func(s *state.Store) error {
			_, err := s.Commit([]state.Record{record("mx", 41)}, []state.Entry{set("mx", 41)})
			return err
		},
	}
	for damage, spoil := range damages {
		for name, call := range calls {
			t.Run(damage+"/"+name, func(t *testing.T) {
				path := filepath.Join(mount(t, "64m"), "state.db")
				write(t, path, good)
				s := openStore(t, path)
				file, err := os.OpenFile(path, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(spoil(file), file.Close()); err != nil {
					t.Fatal(err)
				}
				if err := call(s); !errors.Is(err, state.ErrCorrupt) {
					t.Errorf("%s = %v, want ErrCorrupt", name, err)
				}
				for name, call := range calls {
					if err := call(s); !errors.Is(err, state.ErrCorrupt) {
						t.Errorf("later %s = %v, want ErrCorrupt", name, err)
					}
				}
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				if _, err := state.Open(path); !errors.Is(err, state.ErrCorrupt) {
					t.Errorf("open again = %v, want ErrCorrupt and no lock", err)
				}
			})
		}
	}
}

// FuzzStoreFile damages a whole store at up to two places and cuts it.
func FuzzStoreFile(f *testing.F) {
	good := storeBytes(f)
	f.Add(uint32(0), []byte{}, uint32(0), []byte{}, uint32(len(good)))
	f.Add(uint32(2*pageSize+10), []byte{0xff, 0xff}, uint32(3*pageSize), []byte{3}, uint32(len(good)))
	f.Add(uint32(0), make([]byte, 64), uint32(pageSize), make([]byte, 64), uint32(pageSize*5))
	for page := range len(good) / pageSize {
		f.Add(uint32(page*pageSize+8), []byte{1, 0, 9, 0}, uint32(page*pageSize+24), []byte{1, 0, 0, 0, 0, 0, 0, 1}, uint32(len(good)))
	}
	f.Fuzz(func(t *testing.T, at1 uint32, patch1 []byte, at2 uint32, patch2 []byte, size uint32) {
		bad := bytes.Clone(good)
		copy(bad[int(at1)%len(bad):], patch1)
		copy(bad[int(at2)%len(bad):], patch2)
		path := filepath.Join(t.TempDir(), "state.db")
		write(t, path, bad[:min(int(size), len(bad))])
		if _, err := use(path); err != nil && !errors.Is(err, state.ErrCorrupt) {
			t.Errorf("use = %v, want ErrCorrupt", err)
		}
	})
}

// FuzzAnyFile opens whatever there is.
func FuzzAnyFile(f *testing.F) {
	good := storeBytes(f)
	f.Add(good[:pageSize*8])
	f.Add([]byte("not a database"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "state.db")
		write(t, path, text)
		if _, err := use(path); err != nil && !errors.Is(err, state.ErrCorrupt) && !errors.Is(err, io.EOF) {
			t.Errorf("use = %v, want ErrCorrupt", err)
		}
	})
}
