package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOffSwitchesEveryCandidateOffWhateverTheDaemonIs(t *testing.T) {
	tests := []struct {
		name   string
		break_ func(l *lab)
		args   []string
	}{
		{"alive", func(*lab) {}, []string{"off", "mx"}},
		{"alive and all", func(*lab) {}, []string{"off", "--all"}},
		{"stopped", func(l *lab) { _ = l.daemon.Process.Signal(unix.SIGSTOP) }, []string{"off", "--all", "--force"}},
		{"dead", func(l *lab) { l.kill() }, []string{"off", "--all", "--force"}},
		{"dead with store and configuration gone", func(l *lab) {
			l.kill()
			_ = os.RemoveAll(filepath.Join(l.dir, "state"))
			_ = os.Remove(l.config)
		}, []string{"off", "--all", "--force"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.start()
			l.ok("set", "mx", "100%")
			l.servedBy("new")
			tt.break_(l)
			began := time.Now()
			l.ok(tt.args...)
			t.Logf("off took %v", time.Since(began))
			l.servedBy("old")
		})
	}
}

func TestOffNamesForceWhenTheDaemonDoesNotAnswer(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	_ = l.daemon.Process.Signal(unix.SIGSTOP)
	r := l.ctl("off", "mx")
	if r.code != 3 || !strings.Contains(r.stderr, "--force") {
		t.Errorf("off of a hung daemon: exit %d, %q; want exit 3 and a hint at --force", r.code, r.stderr)
	}
}

func TestADaemonThatComesBackAfterAForcedOffStaysOff(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	before := l.status().Generation
	l.kill()
	l.ok("off", "--all", "--force", "--reason", "it burns")
	l.start()
	l.servedBy("old")
	if h := l.newest(); h.Action != "off" || h.Reason != "it burns" || h.PreviousPPM != 1_000_000 || h.WeightPPM != 0 {
		t.Errorf("the history's newest = %+v, want the forced off from 1000000 with its reason", h)
	}
	if s := l.status(); s.WeightPPM != 0 || s.Generation <= before {
		t.Errorf("status = %d ppm at generation %d, want 0 after %d", s.WeightPPM, s.Generation, before)
	}
}

func TestARebootAfterAForcedOffStaysOff(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.kill()
	l.ok("off", "--all", "--force")
	r := l.run("splitd", "cleanup", "--now", "--config", l.config)
	if r.code != 0 {
		t.Fatalf("cleanup: exit %d\n%s", r.code, r.stderr)
	}
	l.start()
	l.servedBy("old")
}

func TestLoweringWorksWithTheDiskFullAndRaisingIsRefused(t *testing.T) {
	l := newLab(t)
	stateDir := filepath.Join(l.dir, "state")
	if err := os.Mkdir(stateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", stateDir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.kill(); _ = unix.Unmount(stateDir, unix.MNT_DETACH) })
	l.start()
	l.ok("set", "mx", "100%")
	fill := filepath.Join(stateDir, "fill")
	fillDisk(t, fill)

	if r := l.ok("set", "mx", "50%"); !strings.Contains(r.stderr, "not recorded") {
		t.Errorf("set to less on a full disk said %q, want that it is not recorded", r.stderr)
	}
	r := l.ctl("set", "mx", "60%")
	if r.code != 1 || !strings.Contains(r.stderr, "raise refused") {
		t.Errorf("set to more on a full disk: exit %d, %q; want it refused", r.code, r.stderr)
	}
	if s := l.status(); s.WeightPPM != 500_000 || !s.Kernel.Synced() {
		t.Errorf("status = %d ppm, in sync %v, want 500000, true", s.WeightPPM, s.Kernel.Synced())
	}
	l.ok("off", "mx")
	l.servedBy("old")

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	l.ok("set", "mx", "100%")
	l.servedBy("new")
}

// fillDisk takes the last byte of the file's file system.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
}

func TestAStoreThatCannotBeReadRefusesOnlyToRaise(t *testing.T) {
	breakages := map[string]func(t *testing.T, path string){
		"corrupt": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 4096)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"truncated": func(t *testing.T, path string) {
			if err := os.Truncate(path, 5000); err != nil {
				t.Fatal(err)
			}
		},
		"locked": func(t *testing.T, path string) {
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
		},
	}
	for name, damage := range breakages {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.start()
			l.ok("set", "mx", "100%")
			l.kill()
			damage(t, filepath.Join(l.dir, "state", "state.db"))
			l.start()

			l.servedBy("new")
			if s := l.status(); s.WeightPPM != 1_000_000 || s.Generation != 2 {
				t.Errorf("status = %d ppm at generation %d, want the kernel's 1000000 at 2", s.WeightPPM, s.Generation)
			}
			l.ok("set", "mx", "50%")
			if r := l.ctl("set", "mx", "60%"); r.code != 1 || !strings.Contains(r.stderr, "state.db") {
				t.Errorf("raising: exit %d, %q; want it refused with the file's name", r.code, r.stderr)
			}
			l.ok("off", "mx")
			l.servedBy("old")
		})
	}
}

func TestWithTheStoreGoneTheKernelsGenerationIsAdopted(t *testing.T) {
	l := newLab(t)
	l.start()
	for _, w := range []string{"5%", "25%", "100%"} {
		l.ok("set", "mx", w)
	}
	before := l.status()
	l.kill()
	if err := os.RemoveAll(filepath.Join(l.dir, "state")); err != nil {
		t.Fatal(err)
	}
	l.start()
	after := l.status()
	if after.Generation != before.Generation || after.WeightPPM != before.WeightPPM {
		t.Errorf("status = %d ppm at %d, want %d at %d", after.WeightPPM, after.Generation, before.WeightPPM, before.Generation)
	}
	l.servedBy("new")
	l.ok("set", "mx", "50%")
	l.ok("set", "mx", "60%")
}
