package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

type ip = netip.Addr

func addr(text string) ip { return netip.MustParseAddr(text) }

var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestWhatWasCommittedIsThereAfterReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "state.db")
	s := openStore(t, path)
	removed := record("web", 3)
	removed.Removed, removed.Overrides = true, nil
	drawn := record("dns", 2)
	drawn.Definition, drawn.Slots = rich("dns"), traffic.Slots{{First: 10, Last: 59_999, Candidate: "new"}}
	kept := commit(t, s, []state.Record{record("mx", 1), removed, drawn}, []state.Entry{set("mx", 1), set("web", 3)})
	if kept[0].Sequence != 1 || kept[1].Sequence != 2 {
		t.Errorf("sequences = %d, %d, want 1, 2", kept[0].Sequence, kept[1].Sequence)
	}
	if err := s.SetRunning(state.Running{Name: "mx.yaml", Text: "splits: []\n"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = openStore(t, path)
	records, err := s.Records()
	if diff := cmp.Diff(map[string]state.Record{"mx": record("mx", 1), "web": removed, "dns": drawn}, records, byValue); diff != "" || err != nil {
		t.Errorf("records (-want +got): %v\n%s", err, diff)
	}
	history, err := s.History("mx", 0)
	if diff := cmp.Diff(kept[:1], history, byValue); diff != "" || err != nil {
		t.Errorf("history (-want +got): %v\n%s", err, diff)
	}
	running, err := s.Running()
	if want := (state.Running{Name: "mx.yaml", Text: "splits: []\n"}); running != want || err != nil {
		t.Errorf("running = %v, %v, want %v", running, err, want)
	}
	for path, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o750 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("mode of %s = %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if len(left) != 1 || err != nil {
		t.Errorf("the directory holds %v, %v, want the store alone", left, err)
	}
}

func TestPlainApplyForgetsTheRunningTextWithItsRecords(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	if _, err := s.CommitRunning(state.Running{Name: "f", Text: "x"}, []state.Record{record("mx", 1)}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CommitRunning(state.Running{}, []state.Record{record("mx", 2)}, []state.Entry{set("mx", 2)}); err != nil {
		t.Fatal(err)
	}
	running, err := s.Running()
	if running != (state.Running{}) || err != nil {
		t.Errorf("running = %v, %v, want none", running, err)
	}
	if records, err := s.Records(); records["mx"].Generation != 2 || err != nil {
		t.Errorf("generation = %d, %v, want 2", records["mx"].Generation, err)
	}
}

func TestHistoryIsNewestFirstAndLimited(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	// Names that are prefixes of each other must not run together.
	for i, name := range []string{"mx", "mx-2", "mx", "m", "web", "mx"} {
		commit(t, s, nil, []state.Entry{set(name, traffic.Generation(i+1))})
	}
	for _, tc := range []struct {
		split string
		limit int
		want  []uint64
	}{
		{"mx", 0, []uint64{6, 3, 1}},
		{"mx", 2, []uint64{6, 3}},
		{"mx-2", 0, []uint64{2}},
		{"web", 5, []uint64{5}},
		{"m", 0, []uint64{4}},
		{"none", 0, nil},
		{"", 0, []uint64{6, 5, 4, 3, 2, 1}},
		{"", 4, []uint64{6, 5, 4, 3}},
	} {
		entries, err := s.History(tc.split, tc.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, e := range entries {
			got = append(got, e.Sequence)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("history of %q, limit %d (-want +got):\n%s", tc.split, tc.limit, diff)
		}
	}
}

func TestHistoryKeepsTheNewestThousandOfEachSplitAndFiftyGenerations(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	batch := func(split string, n int, generation func(i int) traffic.Generation) {
		entries := make([]state.Entry, n)
		for i := range entries {
			entries[i] = set(split, generation(i))
		}
		commit(t, s, nil, entries)
	}
	each := func(i int) traffic.Generation { return traffic.Generation(i + 1) }
	batch("web", 3, each)
	batch("mx", 1005, each)
	// 60 generations of 40 entries each: 50 of them are 2,000 entries.
	batch("dns", 60*40, func(i int) traffic.Generation { return traffic.Generation(i/40 + 1) })
	for split, want := range map[string]int{"mx": 1000, "web": 3, "dns": 2000, "": 3003} {
		entries, err := s.History(split, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != want {
			t.Errorf("history of %q has %d entries, want %d", split, len(entries), want)
		}
		if newest := entries[0].Generation; split == "mx" && newest != 1005 {
			t.Errorf("the newest kept generation is %d, want 1005", newest)
		}
	}
}

func TestCommitThatIsRefusedLeavesNothing(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	if _, err := s.Commit([]state.Record{record("mx", 1)}, []state.Entry{set("not a name", 1)}); err == nil {
		t.Error("an entry of a split without a proper name is accepted")
	}
	if records, err := s.Records(); len(records) != 0 || err != nil {
		t.Errorf("records = %v, %v, want none", records, err)
	}
	if kept := commit(t, s, nil, []state.Entry{set("mx", 1)}); kept[0].Sequence != 1 {
		t.Errorf("the first sequence is %d, want 1", kept[0].Sequence)
	}
}

func TestManyGoroutinesShareAStore(t *testing.T) {
	s := openStore(t, filepath.Join(mount(t, "64m"), "state.db"))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			name := fmt.Sprintf("s%d", i)
			for generation := range traffic.Generation(10) {
				if _, err := s.Commit([]state.Record{record(name, generation)}, []state.Entry{set(name, generation)}); err != nil {
					t.Error(err)
				}
				if _, err := s.Records(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if entries, err := s.History("", 0); len(entries) != 80 || err != nil {
		t.Errorf("history has %d entries, %v, want 80", len(entries), err)
	}
}

func TestASecondOpenerIsToldThatTheStoreIsLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openStore(t, path)
	begin := time.Now()
	_, err := state.Open(path)
	if !errors.Is(err, state.ErrLocked) {
		t.Fatalf("open again = %v, want ErrLocked", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the refusal took %v", took)
	}
	comm, failed := os.ReadFile("/proc/self/comm")
	if failed != nil {
		t.Fatal(failed)
	}
	want := fmt.Sprintf("open store %q: locked by another process, %d (%s): another splitd runs on this state_dir: stop it, or give this one its own", path, os.Getpid(), bytes.TrimSpace(comm))
	if err.Error() != want {
		t.Errorf("error = %q, want %q", err, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openStore(t, path)
}

func TestTheLockOfADeadProcessIsGone(t *testing.T) {
	dir := t.TempDir()
	c := startChild(t, dir)
	if _, err := state.Open(filepath.Join(dir, "state.db")); !errors.Is(err, state.ErrLocked) {
		t.Errorf("open while another process has it = %v, want ErrLocked", err)
	}
	c.kill()
	openStore(t, filepath.Join(dir, "state.db"))
}

func TestTwoProcessesThatCreateTheStoreAtOnceDoNotDisturbEachOther(t *testing.T) {
	for range 4 {
		path := filepath.Join(mount(t, "64m"), "state.db")
		var group sync.WaitGroup
		var opened sync.Map
		for i := range 4 {
			group.Go(func() {
				s, err := state.Open(path)
				switch {
				case err == nil:
					opened.Store(i, true)
					t.Cleanup(func() { _ = s.Close() })
				case !errors.Is(err, state.ErrLocked):
					t.Error(err)
				}
			})
		}
		group.Wait()
		n := 0
		opened.Range(func(any, any) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d opened the store, want 1", n)
		}
	}
}

func TestAStoreOfANewerSplitdIsRefusedAndSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := openStore(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	editBolt(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("7")) })
	_, err := state.Open(path)
	if !errors.Is(err, state.ErrCorrupt) || !strings.Contains(err.Error(), "a newer splitd wrote it, schema 7, and this one knows 1") {
		t.Errorf("open = %v", err)
	}
}

func TestTheErrorOfADeniedStoreNamesTheCure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	if err := os.Mkdir(path, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Open(path); err == nil || errors.Is(err, state.ErrCorrupt) || !strings.Contains(err.Error(), path) {
		t.Errorf("open of a directory = %v", err)
	}
}

// editBolt changes a closed store behind its back.
func editBolt(t testing.TB, path string, fn func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func childCommand(t testing.TB, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestAStoreKnowsThatItsFileIsNotThereAnyMore(t *testing.T) {
	for name, take := range map[string]func(path string) error{
		"removed":  os.Remove,
		"moved":    func(path string) error { return os.Rename(path, path+".away") },
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) },
	} {
		path := filepath.Join(t.TempDir(), "state.db")
		s := openStore(t, path)
		if err := s.Gone(); err != nil || !s.Made() {
			t.Errorf("%s: before that Gone = %v, Made = %v", name, err, s.Made())
		}
		if err := take(path); err != nil {
			t.Fatal(err)
		}
		if err := s.Gone(); !errors.Is(err, state.ErrGone) {
			t.Errorf("%s: Gone = %v, want ErrGone", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "state.db")
	if err := openStore(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if openStore(t, path).Made() {
		t.Error("a store that was there is called new")
	}
}

func TestTheNumbersOfAStoreGoOnFromOthersAndNeverBack(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "state.db"))
	for _, step := range []struct{ after, want uint64 }{{0, 1}, {41, 42}, {7, 43}} {
		if err := s.GoOn(step.after); err != nil {
			t.Fatal(err)
		}
		entries, err := s.Commit(nil, []state.Entry{set("mx", 1)})
		if err != nil || entries[0].Sequence != step.want {
			t.Errorf("after GoOn(%d) the next is %+v, %v, want %d", step.after, entries, err, step.want)
		}
	}
}
