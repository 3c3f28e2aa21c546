package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/programs"
)

// TestKernelStoreAndStatusAgreeAfterEveryCrash kills the daemon with -9 at a
// random moment around a change, hundreds of times.
func TestKernelStoreAndStatusAgreeAfterEveryCrash(t *testing.T) {
	const crashes = 250
	l := newLab(t)
	random := rand.New(rand.NewPCG(25, 1))
	weight, generation := 0, uint64(0)
	completed := 0
	window := l.changeTakes()
	for i := range crashes {
		l.start()
		s := l.status()
		if !s.Kernel.Synced() {
			t.Fatalf("crash %d: the kernel is not in sync: %s", i, l.ctl("plan").stdout)
		}
		if s.Generation < generation {
			t.Fatalf("crash %d: generation %d after %d", i, s.Generation, generation)
		}
		if h := l.newest(); h.Generation != s.Generation || h.WeightPPM != s.WeightPPM {
			t.Fatalf("crash %d: the store's newest is %d ppm at %d, status has %d ppm at %d", i, h.WeightPPM, h.Generation, s.WeightPPM, s.Generation)
		}
		weight, generation = s.WeightPPM, s.Generation
		next := random.IntN(101)
		set := l.command("set", "mx", fmt.Sprintf("%d%%", next))
		if err := l.router.Start(set); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(window)))) // the moment of the crash
		l.kill()
		if set.Wait() == nil {
			completed++
			l.start()
			if s := l.status(); s.WeightPPM != next*10_000 {
				t.Fatalf("crash %d: an acknowledged %d%% became %d ppm", i, next, s.WeightPPM)
			}
			l.kill()
		}
	}
	t.Logf("%d crashes, %d of them after the answer; last %d ppm at generation %d", crashes, completed, weight, generation)
	if completed == 0 || completed == crashes {
		t.Errorf("%d of %d changes were answered: the crashes did not fall among the steps", completed, crashes)
	}
}

// changeTakes is twice the time that a change takes on this machine now, by
// its second try: the crashes are to fall among its steps and behind them.
func (l *lab) changeTakes() time.Duration {
	l.t.Helper()
	l.start()
	defer l.kill()
	l.ok("set", "mx", "1%")
	began := time.Now()
	l.ok("set", "mx", "2%")
	return 2 * time.Since(began)
}

// newest is the newest entry of the history.
func (l *lab) newest() api.Entry {
	l.t.Helper()
	var history api.History
	if err := json.Unmarshal([]byte(l.ok("history", "mx", "-n", "1", "-o", "json").stdout), &history); err != nil {
		l.t.Fatal(err)
	}
	if len(history.Items) != 1 {
		l.t.Fatalf("history has %d entries, want 1", len(history.Items))
	}
	return history.Items[0]
}

// command prepares a splitctl call.
func (l *lab) command(args ...string) *exec.Cmd {
	return exec.Command(programs.Path(l.t, "splitctl"), append([]string{"--socket", l.socket}, args...)...)
}
