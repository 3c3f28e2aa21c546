package state_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// mount puts a disk in memory at a directory of the test: the test package runs
// in a mount namespace of its own. It can be full, and it is quick where a test
// makes very many files and none of it is about the power going.
func mount(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	// As root the namespace shares its mounts with the machine's until told not to.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill takes every block that is left, and returns the file that holds them.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for err == nil {
		_, err = file.Write(make([]byte, 512))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return path
}

// demandFull checks the error that operators see.
// wide is a change that does not fit into the last block of the snapshot.
func wide(generation traffic.Generation) state.SnapshotChange {
	split := snapshot(generation).Splits[0]
	for i := range 500 {
		split.Service.Ports = append(split.Service.Ports, traffic.Port{Number: uint16(1000 + i), Transport: traffic.TCP})
	}
	return state.SnapshotChange{SavedAt: noon, Splits: []traffic.Split{split}}
}

func demandFull(t *testing.T, err error, verb, path string) {
	t.Helper()
	if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, state.ErrCorrupt) {
		t.Fatalf("%s on a full disk = %v, want ENOSPC and not ErrCorrupt", verb, err)
	}
	for _, want := range []string{verb, path, "no space left on device", "make room on the disk of \"" + filepath.Dir(path) + "\""} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error = %q, want in it %q", err, want)
		}
	}
}

func TestCommitOnAFullDiskKeepsTheOldRecordAndWorksAgainWithRoom(t *testing.T) {
	dir := mount(t, "256k")
	path := filepath.Join(dir, "state.db")
	s := openStore(t, path)
	commit(t, s, []state.Record{record("mx", 1)}, []state.Entry{set("mx", 1)})
	ballast := fill(t, dir)

	// A long reason needs pages that the file does not have yet.
	big := set("mx", 2)
	big.Reason = strings.Repeat("x", 64<<10)
	for range 3 {
		_, err := s.Commit([]state.Record{record("mx", 2)}, []state.Entry{big})
		demandFull(t, err, "record state in store", path)
		demandRecord(t, s)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, path) // opening needs no room
	demandRecord(t, s)
	_, err := s.Commit([]state.Record{record("mx", 2)}, []state.Entry{big})
	demandFull(t, err, "record state in store", path)

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if kept := commit(t, s, []state.Record{record("mx", 2)}, []state.Entry{big}); kept[0].Sequence != 2 {
		t.Errorf("sequence = %d, want 2: the failed ones left none", kept[0].Sequence)
	}
	if records, err := s.Records(); records["mx"].Generation != 2 || err != nil {
		t.Errorf("generation = %d, %v, want 2", records["mx"].Generation, err)
	}
}

func demandRecord(t *testing.T, s *state.Store) {
	t.Helper()
	records, err := s.Records()
	if diff := cmp.Diff(map[string]state.Record{"mx": record("mx", 1)}, records, byValue); diff != "" || err != nil {
		t.Errorf("the old record (-want +got): %v\n%s", err, diff)
	}
	if entries, err := s.History("", 0); len(entries) != 1 || err != nil {
		t.Errorf("history has %d entries, %v, want 1", len(entries), err)
	}
}

func TestAStoreThatCannotBeMadeOnAFullDiskLeavesNoDamagedFile(t *testing.T) {
	dir := mount(t, "256k")
	ballast := fill(t, dir)
	path := filepath.Join(dir, "state.db")
	_, err := state.Open(path)
	demandFull(t, err, "open store", path)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	openStore(t, path)
}

func TestFilesOnAFullDiskStayWhole(t *testing.T) {
	dir := mount(t, "256k")
	snapshotPath, journalPath := filepath.Join(dir, "snapshot.json"), filepath.Join(dir, "history.jsonl")
	snapshots := state.NewSnapshotFile(snapshotPath)
	if err := snapshots.Replace(snapshot(1)); err != nil {
		t.Fatal(err)
	}
	journal, err := state.OpenJournal(journalPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = journal.Close() })
	if err := state.WriteForced(dir, state.Forced{Splits: []string{"mx"}, Time: noon}); err != nil {
		t.Fatal(err)
	}
	ballast := fill(t, dir)

	demandFull(t, state.NewSnapshotFile(snapshotPath).Replace(snapshot(2)), "write snapshot", snapshotPath)
	demandFull(t, snapshots.Append(wide(2)), "write snapshot", snapshotPath)
	if got, err := state.ReadSnapshot(snapshotPath); err != nil || got.Splits[0].Generation != 1 {
		t.Errorf("the old snapshot = %v, %v", got, err)
	}
	big := set("mx", 1)
	big.Reason = strings.Repeat("x", 64<<10)
	demandFull(t, journal.Append(big), "append to journal", journalPath)
	if forced, err := state.TakeForced(dir); len(forced) != 1 || err != nil {
		t.Errorf("forced marker on a full disk = %v, %v, want it taken", forced, err)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := state.NewSnapshotFile(snapshotPath).Replace(snapshot(2)); err != nil {
		t.Error(err)
	}
	if err := journal.Append(set("mx", 2)); err != nil {
		t.Error(err)
	}
	if lines := journalLines(t, journalPath); lines[len(lines)-1]["generation"] != 2.0 {
		t.Errorf("the last journal line is %v, want generation 2", lines[len(lines)-1])
	}
}

// The whole file has to be written beside the one before; a line has not.
func TestAChangeIsSavedWhereAFullDiskHasRoomForALineAlone(t *testing.T) {
	dir := mount(t, "1m")
	path := filepath.Join(dir, "snapshot.json")
	whole := snapshot(1)
	whole.Splits[0] = wide(1).Splits[0]
	f := state.NewSnapshotFile(path)
	t.Cleanup(func() { _ = f.Close() })
	err := f.Replace(whole)
	generation := traffic.Generation(1)
	for ; err == nil; generation++ {
		err = f.Append(wide(generation + 1))
	}
	if !errors.Is(err, state.ErrWriteWhole) {
		t.Fatal(err)
	}
	ballast := fill(t, dir)
	info, err := os.Stat(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(ballast, info.Size()-int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if err := f.Replace(whole); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Replace = %v, want ENOSPC", err)
	}
	small := snapshot(generation)
	if err := f.Extend(state.SnapshotChange{SavedAt: noon, Splits: small.Splits[:1]}); err != nil {
		t.Fatalf("Extend = %v, want the line to be written", err)
	}
	got, err := state.ReadSnapshot(path)
	if err != nil || got.Splits[0].Generation != generation {
		t.Errorf("the snapshot has generation %d, %v, want %d", got.Splits[0].Generation, err, generation)
	}
}
