package state_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
)

const spare = "off-forced.spare"

func prepareSpare(t *testing.T, dir string) {
	t.Helper()
	if err := state.PrepareSpare(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(dir, spare)); err != nil || info.Size() != 4096 || info.Sys().(*syscall.Stat_t).Blocks == 0 {
		t.Fatalf("the spare is %+v, %v, want 4096 bytes that are on the disk", info, err)
	}
}

func TestAnOffOnAFullDiskIsRemembered(t *testing.T) {
	dir := mount(t, "256k")
	prepareSpare(t, dir)
	prepareSpare(t, dir) // it is there: nothing to do
	ballast := fill(t, dir)
	prepareSpare(t, dir) // also where nothing could be done

	// The second finds no spare, but room behind the first one.
	for _, f := range []state.Forced{forced("mx"), forced("web")} {
		if err := state.WriteForcedSpare(dir, f); err != nil {
			t.Fatal(err)
		}
	}
	both := []state.Forced{forced("mx"), forced("web")}
	got, err := state.ReadForced(dir)
	demandForced(t, "restore reads them", both, got, err)
	got, err = state.TakeForced(dir)
	demandForced(t, "run takes them", both, got, err)
	if err := state.PrepareSpare(dir); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("PrepareSpare on a full disk = %v, want ENOSPC", err)
	}
	got, err = state.TakeForced(dir)
	demandForced(t, "and again until they are recorded", both, got, err)
	if err := state.ForgetForced(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	prepareSpare(t, dir)
	got, err = state.TakeForced(dir)
	demandForced(t, "a spare is no marker", nil, got, err)
}

func TestASpareBesideAMarkerLosesNeither(t *testing.T) {
	dir := mount(t, "256k")
	prepareSpare(t, dir)
	if err := state.WriteForced(dir, forced("mx")); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	if err := state.WriteForcedSpare(dir, forced("web")); err != nil {
		t.Fatal(err)
	}
	got, err := state.TakeForced(dir)
	slices.SortFunc(got, func(a, b state.Forced) int { return strings.Compare(a.Splits[0], b.Splits[0]) })
	demandForced(t, "taken", []state.Forced{forced("mx"), forced("web")}, got, err)
	if err := state.ForgetForced(dir); err != nil {
		t.Fatal(err)
	}
	got, err = state.TakeForced(dir)
	demandForced(t, "recorded", nil, got, err)
}

func TestWithoutASpareAFullDiskRefusesAndLeavesNoHalfLine(t *testing.T) {
	dir := mount(t, "256k")
	long := forced("mx")
	long.Reason = strings.Repeat("x", 4096-len(`{"splits":["mx"],"time":"2026-11-20T12:00:00Z","uid":0,"user":"root","sudo_user":"ann","pid":99,"command":"splitctl off --force","reason":""}`)-100)
	if err := state.WriteForced(dir, long); err != nil {
		t.Fatal(err)
	}
	fill(t, dir)
	demandFull(t, state.WriteForcedSpare(dir, forced("web")), "write forced marker", filepath.Join(dir, "off-forced.json"))
	got, err := state.TakeForced(dir)
	demandForced(t, "taken", []state.Forced{long}, got, err)
}

func TestWithoutASpareADiskWithRoomRemembers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := state.WriteForcedSpare(dir, forced("mx")); err != nil {
		t.Fatal(err)
	}
	got, err := state.TakeForced(dir)
	demandForced(t, "taken", []state.Forced{forced("mx")}, got, err)
}

func TestAMarkerThatIsTooLongForTheSpareLowersMoreRatherThanLess(t *testing.T) {
	many := forced()
	for n := range 1000 {
		many.Splits = append(many.Splits, fmt.Sprintf("split-%d", n))
	}
	wordy := forced("mx")
	wordy.Reason = strings.Repeat("x", 5000)
	both := many
	both.SudoUser = strings.Repeat("y", 5000)
	silent := forced("mx")
	silent.Command, silent.Reason = "", ""
	for name, test := range map[string]struct{ write, want state.Forced }{
		"too many names":  {many, forced()},
		"too many words":  {wordy, silent},
		"too much of all": {both, state.Forced{Time: noon, PID: 99}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := mount(t, "256k")
			prepareSpare(t, dir)
			fill(t, dir)
			if err := state.WriteForcedSpare(dir, test.write); err != nil {
				t.Fatal(err)
			}
			got, err := state.TakeForced(dir)
			demandForced(t, "taken", []state.Forced{test.want}, got, err)
		})
	}
}

func TestASpareThatAnOffDiedInIsUsedOrReplaced(t *testing.T) {
	t.Run("while it was written", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, spare), []byte("\n{\"splits\":[\"m"))
		if err := state.WriteForcedSpare(dir, forced("web")); err != nil {
			t.Fatal(err)
		}
		got, err := state.TakeForced(dir)
		demandForced(t, "taken", []state.Forced{forced("web")}, got, err)
	})
	t.Run("before the old name was gone", func(t *testing.T) {
		dir := t.TempDir()
		if err := state.WriteForced(dir, forced("mx")); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(filepath.Join(dir, "off-forced.json"), filepath.Join(dir, spare)); err != nil {
			t.Fatal(err)
		}
		if err := state.WriteForcedSpare(dir, forced("web")); err != nil {
			t.Fatal(err)
		}
		prepareSpare(t, dir)
		got, err := state.TakeForced(dir)
		demandForced(t, "taken", []state.Forced{forced("mx"), forced("web")}, got, err)
	})
	t.Run("and something else stands there", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, spare), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := state.PrepareSpare(dir); err == nil {
			t.Error("PrepareSpare replaced a directory")
		}
		if err := state.WriteForcedSpare(dir, forced("web")); err != nil {
			t.Fatal(err)
		}
		got, err := state.TakeForced(dir)
		demandForced(t, "taken", []state.Forced{forced("web")}, got, err)
	})
}

func TestForcedOffsThroughTheSpareOfManyAtOnceAreAllThere(t *testing.T) {
	dir := t.TempDir()
	const writers = 20
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			if err := state.WriteForcedSpare(dir, forced(fmt.Sprintf("s%02d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if err := state.PrepareSpare(dir); err != nil && !strings.Contains(err.Error(), "somebody writes to it") {
			t.Fatal(err)
		}
	}
	got, err := state.TakeForced(dir)
	var names []string
	for _, f := range got {
		names = append(names, f.Splits...)
	}
	slices.Sort(names)
	var want []string
	for i := range writers {
		want = append(want, fmt.Sprintf("s%02d", i))
	}
	if diff := cmp.Diff(want, names); diff != "" || err != nil {
		t.Errorf("taken (-want +got): %v\n%s", err, diff)
	}
}

func TestAReadOnlyDiskDoesNotRefuseTheStart(t *testing.T) {
	for name, write := range map[string][]state.Forced{"no marker": nil, "a marker": {forced("mx")}} {
		t.Run(name, func(t *testing.T) {
			dir := mount(t, "256k")
			for _, f := range write {
				if err := state.WriteForced(dir, f); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				got, err := state.TakeForced(dir)
				demandForced(t, "every start honours it", write, got, err)
				if err := state.ForgetForced(dir); err != nil {
					t.Error(err)
				}
			}
			if err := state.WriteForcedSpare(dir, forced("web")); !errors.Is(err, syscall.EROFS) {
				t.Errorf("WriteForcedSpare = %v, want EROFS", err)
			}
		})
	}
}
