package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
)

var nft = netfilter.Stranger{PID: 4711, Comm: "nft"}

// listen returns what the daemon logs from now on.
func listen(d *Daemon) *bytes.Buffer {
	var log bytes.Buffer
	d.log = slog.New(slog.NewTextHandler(&log, nil))
	return &log
}

func TestWhatAnotherProgramFlushedIsPutBackAndNothingElseChanges(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	before, err := w.set(d, percent(30))
	if err != nil {
		t.Fatal(err)
	}
	log := listen(d)
	if !d.mendOnce(t.Context(), nft) || log.Len() > 0 {
		t.Errorf("where nothing differs it said %q, want nothing", log)
	}
	clear(w.kernel.splits)
	if !d.mendOnce(t.Context(), nft) {
		t.Error("the mend failed")
	}
	if got := w.kernel.weight("mx"); got != percent(30) {
		t.Errorf("the kernel has %s, want 30%%", got)
	}
	for _, want := range []string{"level=WARN", "comm=nft", "pid=4711", "mx: wanted", "mended"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, log)
		}
	}
	history, err := d.History(t.Context(), "mx", 1)
	if err != nil || len(history.Items) != 1 || history.Items[0].Generation != before.Generation || history.Items[0].Action != string(state.ActionSet) {
		t.Fatalf("the newest of the history is %+v, %v; want the set before", history.Items, err)
	}
	w.kernel.mended = 2 // return paths
	if got := d.Sample(t.Context()).KernelMended; got != 3 {
		t.Errorf("mended %d times, want 3", got)
	}
	w.agrees(d)
}

func TestAChangeThatIsFoundBeforeItIsHeardOfIsNamedAllTheSame(t *testing.T) {
	for _, test := range []struct {
		what  string
		heard []netfilter.Stranger
		want  string
	}{
		{"who did it is heard of at last", []netfilter.Stranger{{}, nft}, "comm=nft pid=4711"},
		{"nobody is", nil, "comm=unknown pid=0"},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, mx(0))
				d := w.mustBoot()
				log := listen(d)
				clear(w.kernel.splits)
				go func() {
					for _, who := range test.heard {
						time.Sleep(namePatience / 3)
						d.suspect(who)
					}
				}()
				if !d.mendOnce(t.Context(), netfilter.Stranger{}) || !strings.Contains(log.String(), test.want) {
					t.Errorf("it says %q, want %q", log, test.want)
				}
				if heard := len(d.strangers); heard != min(len(test.heard), 1) {
					t.Errorf("%d news are left to look into, want one if any", heard)
				}
			})
		})
	}
}

// Tables that were open are the daemon's alone when it has made them anew, and
// then a load that names them fails.
func TestAfterAMendTheFileToIncludeIsWrittenAgain(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	select {
	case <-d.include: // of the start
	default:
	}
	clear(w.kernel.splits)
	if !d.mendOnce(t.Context(), nft) || len(d.include) != 1 {
		t.Errorf("it is asked for %d times, want once", len(d.include))
	}
}

func TestAMendThatFailsSaysWhyAndIsToBeTriedAgain(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := w.set(d, percent(30)); err != nil {
		t.Fatal(err)
	}
	log := listen(d)
	clear(w.kernel.splits)
	w.kernel.fail = errors.New("no memory")
	if d.mendOnce(t.Context(), nft) {
		t.Error("a mend that failed is told as done")
	}
	if !strings.Contains(log.String(), "no memory") || d.mended.Load() != 0 {
		t.Errorf("mended %d times, the log says %q; want 0 and the cause", d.mended.Load(), log)
	}
	w.kernel.fail = nil
	if !d.mendOnce(t.Context(), nft) {
		t.Error("the second mend failed")
	}
	w.agrees(d)
}

func TestAForcedOffBesideALivingDaemonIsNotMendedAway(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := w.set(d, percent(30)); err != nil {
		t.Fatal(err)
	}
	split := w.kernel.splits["mx"]
	split.Generation++
	split.Candidates[0].Weight = 0
	w.kernel.splits["mx"], w.kernel.forced = split, true
	if !d.mendOnce(t.Context(), netfilter.Stranger{PID: 4712, Comm: "splitctl"}) {
		t.Error("the mend failed")
	}
	if got := w.kernel.weight("mx"); got != 0 {
		t.Errorf("the kernel has %s, want 0%%", got)
	}
	history, err := d.History(t.Context(), "mx", 1)
	if err != nil || len(history.Items) != 1 || history.Items[0].Action != string(state.ActionOff) || history.Items[0].Command != "splitctl" {
		t.Fatalf("the newest of the history is %+v, %v; want an off by splitctl", history.Items, err)
	}
	w.kernel.forced = false
	w.agrees(d)
}

func TestAnOldForcedOffThatASavedRulesetBroughtBackIsMended(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	saved := w.kernel.splits["mx"]
	if _, err := w.set(d, percent(30)); err != nil {
		t.Fatal(err)
	}
	w.kernel.splits["mx"], w.kernel.forced = saved, true
	if !d.mendOnce(t.Context(), nft) || w.kernel.weight("mx") != percent(30) {
		t.Errorf("the kernel has %s, want 30%%", w.kernel.weight("mx"))
	}
}

func TestTheFirstNamedSuspectIsKept(t *testing.T) {
	d := newWorld(t).mustBoot()
	for _, s := range []netfilter.Stranger{{}, nft, {}, {PID: 1, Comm: "late"}} {
		d.suspect(s)
	}
	if got := <-d.strangers; got != nft {
		t.Errorf("suspected is %+v, want %+v", got, nft)
	}
}

func TestAFailedMendIsTriedAgainByItselfWithLessAndLessHaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, mx(0))
		d := w.mustBoot()
		if _, err := w.set(d, percent(30)); err != nil {
			t.Fatal(err)
		}
		log := listen(d)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.mend(ctx) }()
		clear(w.kernel.splits)
		w.kernel.fail = errors.New("no memory")
		d.suspect(nft)
		time.Sleep(100 * time.Second)
		synctest.Wait()
		// After 0, 1, 3, 7, 15, 31, 61 and 91 s.
		if got := strings.Count(log.String(), "no memory"); got != 8 {
			t.Errorf("%d attempts in 100 s, want 8", got)
		}
		w.kernel.fail = nil
		d.suspect(nft) // news are no reason to wait longer
		synctest.Wait()
		if got := w.kernel.weight("mx"); got != percent(30) || !strings.Contains(log.String(), "as wanted again") {
			t.Errorf("the kernel has %s, want 30%%; the log: %s", got, log)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
