package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
)

// contents are the files of the state directory.
func (w *world) contents() map[string]string {
	w.t.Helper()
	files, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	all := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(w.dir, file.Name()))
		if err != nil {
			w.t.Fatal(err)
		}
		all[file.Name()] = string(text)
	}
	return all
}

func TestASecondDaemonOnAStateDirectoryIsRefusedAndChangesNothingThere(t *testing.T) {
	w := newWorld(t, proxied(percent(50)))
	d := w.mustBoot()
	if err := state.WriteForced(w.dir, state.Forced{Time: noon}); err != nil {
		t.Fatal(err) // the second one must not take it from the first one's next start
	}
	_ = d.scribe.submit(func() error { return nil }).wait(t.Context(), raisePatience)
	before := w.contents()
	other := newWorld(t, mx(0))
	other.dir = w.dir
	second, err := other.boot()
	want := fmt.Sprintf("start: another splitd (pid %d) runs on the state_dir %q: stop it, or give this one a state_dir and a control.socket of its own", os.Getpid(), w.dir)
	if err == nil || err.Error() != want {
		t.Errorf("the second start: %v, want %s", err, want)
	}
	if err := second.stop(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, w.contents()); diff != "" {
		t.Errorf("the first one's files (-before +after):\n%s", diff)
	}
}

func TestAStoreThatAnotherProgramLocksOrNobodyKnowsOf(t *testing.T) {
	for name, tt := range map[string]struct {
		locked *state.Locked
		want   string // "": it starts
	}{
		"a backup":                  {&state.Locked{PID: 1, Program: "rsync"}, ""},
		"one of another namespace":  {&state.Locked{}, "start: another splitd runs on the state_dir "},
		"one that ended in between": {&state.Locked{PID: 4_000_000}, "start: another splitd (pid 4000000) runs on the state_dir "},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, mx(0))
			w.locked = tt.locked
			d, err := w.boot()
			t.Cleanup(func() { _ = d.stop() })
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
				t.Errorf("start = %v, want %q", err, tt.want)
			}
		})
	}
}
