package daemon

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// hangsUp has a daemon reload on every signal that is sent, and tells what it logs.
func (w *world) hangsUp(d *Daemon) (hangup chan<- os.Signal, logged func() string) {
	w.t.Helper()
	var log safeText
	d.log = slog.New(slog.NewTextHandler(&log, nil))
	signals := make(chan os.Signal, 1)
	ctx, stop := context.WithCancel(w.t.Context())
	var reloads sync.WaitGroup
	reloads.Go(func() { _ = d.reloadOnHangup(ctx, signals) })
	w.t.Cleanup(func() {
		stop()
		reloads.Wait()
	})
	return signals, log.String
}

// safeText is a text that several write.
type safeText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *safeText) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *safeText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// raisedFiles has the files give the candidate of web more.
func (w *world) raisedFiles() {
	web := mx(percent(7))
	web.Name = "web"
	w.files.Splits = []traffic.Split{mx(0), web}
}

// setsWhileFilesAreRead has mx switched off in every one of the next readings of the
// files, behind the reload's back.
func (w *world) setsWhileFilesAreRead(d *Daemon, readings int) (tries func() int) {
	read, n := d.options.Reload, 0
	d.options.Reload = func() (configs.Config, error) {
		if n++; n <= readings {
			w.off(d)
		}
		return read()
	}
	return func() int { return n }
}

// Who sends the signal hears of no conflict.
func TestAReloadBySignalIsTriedAgainWhenSomethingIsSetMeanwhile(t *testing.T) {
	for name, test := range map[string]struct {
		times, tries int
		done         bool
	}{
		"never": {0, 1, true}, "once": {1, 2, true}, "as often as it tries": {hangupTries, hangupTries, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newPair(t)
			d := w.mustBoot()
			w.raisedFiles()
			tries := w.setsWhileFilesAreRead(d, test.times)
			hangup, logged := w.hangsUp(d)
			hangup <- syscall.SIGHUP
			nettest.Eventually(t, "the reload has ended", func() bool {
				return strings.Contains(logged(), "msg=reloaded") || strings.Contains(logged(), "the running configuration stays")
			})
			if done := strings.Contains(logged(), "msg=reloaded"); done != test.done || tries() != test.tries {
				t.Errorf("after %d tries the log says\n%s", tries(), logged())
			}
			if got := w.kernel.weight("web"); (got == percent(7)) != test.done {
				t.Errorf("the kernel has %s of web", got)
			}
			w.endsAtNothing(d)
		})
	}
}

// It waits to be written behind another change.
func TestARaiseThatIsOvertakenInTheQueueIsAConflict(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	first, calls := make(chan struct{}), 0
	asked := word{action: state.ActionSet, since: d.lowered.Load()}
	raise := asks(func() error {
		_, err := d.steer(t.Context(), asked, "web", func(record state.Record, now time.Time) (traffic.Overrides, error) {
			if calls++; calls == 2 { // the first time it finds out that it is a raise
				d.scribe.submit(func() error {
					<-first
					return nil
				})
			}
			return overlay(record, map[string]traffic.Weight{"new": percent(50)}, traffic.Override{Since: now}), nil
		})
		return err
	})
	nettest.Eventually(t, "the raise is in the queue", func() (queued bool) {
		_ = d.exclusively(func() error {
			queued = d.reserved["web"] > 0
			return nil
		})
		return queued
	})
	d.lowered.Add(1) // as by an off
	close(first)
	if err := <-raise; !isConflict(err) {
		t.Errorf("the raise = %v, want a conflict", err)
	}
}
