package state_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
)

func forced(splits ...string) state.Forced {
	return state.Forced{Splits: splits, Time: noon, UID: 0, User: "root", SudoUser: "ann", PID: 99, Command: "splitctl off --force", Reason: "CHG-2"}
}

func demandForced(t *testing.T, what string, want, got []state.Forced, err error) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%s (-want +got): %v\n%s", what, err, diff)
	}
}

func TestAForcedOffIsHonouredOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	got, err := state.TakeForced(dir)
	demandForced(t, "nothing written", nil, got, err)
	for _, f := range []state.Forced{forced("mx"), forced()} {
		if err := state.WriteForced(dir, f); err != nil {
			t.Fatal(err)
		}
	}
	both := []state.Forced{forced("mx"), forced()}
	got, err = state.ReadForced(dir)
	demandForced(t, "restore reads and leaves them", both, got, err)
	got, err = state.TakeForced(dir)
	demandForced(t, "run takes them", both, got, err)
	got, err = state.TakeForced(dir)
	demandForced(t, "a run that died before it recorded them takes them again", both, got, err)

	if err := state.WriteForced(dir, forced("web")); err != nil {
		t.Fatal(err)
	}
	got, err = state.TakeForced(dir)
	demandForced(t, "with a newer one behind them", append(both, forced("web")), got, err)
	if err := state.ForgetForced(dir); err != nil {
		t.Fatal(err)
	}
	got, err = state.TakeForced(dir)
	demandForced(t, "once recorded they are gone", nil, got, err)
	if left, err := os.ReadDir(dir); len(left) != 0 || err != nil {
		t.Errorf("the directory holds %v, %v", left, err)
	}
}

func TestAForcedOffWrittenBetweenTakingAndForgettingIsKept(t *testing.T) {
	dir := t.TempDir()
	if err := state.WriteForced(dir, forced("mx")); err != nil {
		t.Fatal(err)
	}
	if _, err := state.TakeForced(dir); err != nil {
		t.Fatal(err)
	}
	if err := state.WriteForced(dir, forced("web")); err != nil {
		t.Fatal(err)
	}
	if err := state.ForgetForced(dir); err != nil {
		t.Fatal(err)
	}
	got, err := state.TakeForced(dir)
	demandForced(t, "taken later", []state.Forced{forced("web")}, got, err)
}

func TestATornForcedMarkerCountsAsAllSplits(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "off-forced.json"), []byte(`{"splits":["m`))
	if err := state.WriteForced(dir, forced("web")); err != nil {
		t.Fatal(err)
	}
	got, err := state.TakeForced(dir)
	if err != nil || len(got) != 2 || !got[0].Covers("mx") || got[1].Covers("mx") || !got[1].Covers("web") {
		t.Errorf("taken = %v, %v, want all splits, then web", got, err)
	}
}

func TestForcedOffsOfManyAtOnceAreAllThere(t *testing.T) {
	dir := t.TempDir()
	const writers = 20
	seen := make(map[string]bool)
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			if err := state.WriteForced(dir, forced(fmt.Sprintf("s%d", i))); err != nil {
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
		got, err := state.TakeForced(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range got {
			seen[f.Splits[0]] = true
		}
		if err := state.ForgetForced(dir); err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != writers {
		t.Errorf("%d of %d markers were taken", len(seen), writers)
	}
}

func TestAForcedOffWritesToNoOtherPlace(t *testing.T) {
	for _, name := range []string{"off-forced.json", "off-forced.spare"} {
		dir := t.TempDir()
		victim := filepath.Join(t.TempDir(), "passwd")
		write(t, victim, []byte("root"))
		if err := os.Symlink(victim, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := state.WriteForcedSpare(dir, forced("mx")); (err == nil) != (name == "off-forced.spare") {
			t.Errorf("WriteForcedSpare with a link for %s = %v", name, err)
		}
		if err := state.PrepareSpare(dir); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(victim); string(text) != "root" || err != nil {
			t.Errorf("through the link %s came %q, %v", name, text, err)
		}
	}
}
