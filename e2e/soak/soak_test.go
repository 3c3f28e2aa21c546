//go:build soak

package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

var lasts = flag.Duration("for", time.Minute, "how long the load lasts, warm-up included")

func TestMain(m *testing.M) { os.Exit(programs.Run(m)) }

// A quarter of the time is a warm-up: pools fill, the collector finds its pace.
func TestNothingGrowsAndNoClientFailsUnderAMixedLoad(t *testing.T) {
	l := newLab(t)
	l.start(t)
	load := &load{t: t, ns: l.client, candidate: l.candidate, done: map[string]int{}, served: map[string]int{}}
	base := l.base(t, load)

	ctx, stop := context.WithTimeout(t.Context(), *lasts)
	defer stop()
	l.begin(ctx, t, load)
	readings := l.watch(ctx, t, load)
	load.clients.Wait()

	l.judge(t, readings)
	l.judgeLoad(t, load)
	l.judgeEnd(t, base)
}

// base is what the daemon has when everything has been used once and nothing is
// in use.
func (l *lab) base(t *testing.T, load *load) Reading {
	t.Helper()
	for _, s := range services() {
		for _, address := range s.addresses {
			l.client.Do(func() error {
				load.once(s.kinds[0], "first "+s.split, address)
				return nil
			})
		}
	}
	l.must(t)
	l.await(t, "the first flows have ended", l.idle)
	base := l.must(t)
	base["goroutines"] += 2 // of a check or a request that is under way
	base["sockets"] += 2
	return base
}

// begin starts the whole load, which ends with ctx.
func (l *lab) begin(ctx context.Context, t *testing.T, load *load) {
	for _, s := range services() {
		for _, address := range s.addresses {
			for _, k := range s.kinds {
				load.begin(ctx, k, s.split+" "+k.name, address)
			}
		}
	}
	l.operate(ctx, t, load)
	l.fail(ctx, load)
}

// watch takes readings of the plateau until ctx ends.
func (l *lab) watch(ctx context.Context, t *testing.T, load *load) []Reading {
	began, warm := time.Now(), *lasts/4
	var readings []Reading
	said := began
	every(ctx, max(*lasts/400, 250*time.Millisecond), func(int) {
		r, err := l.read()
		if err != nil {
			t.Errorf("read the daemon: %v", err)
			return
		}
		if time.Since(began) > warm {
			readings = append(readings, r)
		}
		if time.Since(said) > max(*lasts/30, 10*time.Second) {
			said = time.Now()
			_, _, all := load.sum()
			t.Logf("%5s: %d flows, %s", time.Since(began).Round(time.Second), all, r)
		}
	})
	return readings
}

func (l *lab) judge(t *testing.T, readings []Reading) {
	t.Helper()
	rows, err := Judge(readings, rules())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d readings of the plateau, of %s:\n%s", len(readings), *lasts, Table(rows))
	for _, row := range rows {
		if row.Grew() {
			t.Errorf("%s has grown", row.Measure)
		}
	}
}

// judgeLoad sees that the load was what it says: without one of its kinds it
// proves less.
func (l *lab) judgeLoad(t *testing.T, load *load) {
	t.Helper()
	done, served, all := load.sum()
	t.Logf("%d flows served by %v, %d failed, %d whom the candidate did not greet:\n%s", all, served, load.failed.Load(), load.excused, list(done))
	if load.failed.Load() > 0 {
		t.Errorf("%d clients failed", load.failed.Load())
	}
	if load.excused > all/200 {
		t.Errorf("the candidate did not greet %d of %d clients", load.excused, all)
	}
	for _, s := range services() {
		for _, k := range s.kinds {
			if done[s.split+" "+k.name] == 0 {
				t.Errorf("no client of %s was of the kind %q", s.split, k.name)
			}
		}
	}
	if served["old"] == 0 || served["new"] == 0 {
		t.Errorf("a backend has served nobody: %v", served)
	}
	answered, unheard := load.answered.Load(), load.unheard.Load()
	t.Logf("%d questions of UDP answered, %d datagrams lost", answered, unheard)
	if unheard > answered/1000 {
		t.Errorf("%d datagrams were lost on the way, and %d questions answered", unheard, answered)
	}
	metrics, err := l.metrics()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"splitd_connect_failures_total", "splitd_bytes_total"} {
		if sum(metrics, name) == 0 {
			t.Errorf("%s is 0: the load does not do what it is to do", name)
		}
	}
}

// judgeEnd sees that the daemon lets go of everything but the pipes that it keeps
// for later, of which rules allow no growth.
func (l *lab) judgeEnd(t *testing.T, base Reading) {
	t.Helper()
	if err := errors.Join(l.configure(""), l.daemon.Process.Signal(unix.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	var left []string
	l.await(t, "what the load has taken is given back", func() error {
		if err := l.idle(); err != nil {
			return err
		}
		if metrics, err := l.metrics(); err != nil || sum(metrics, "splitd_config_last_reload_successful") == 0 {
			return errors.Join(err, errors.New("the newest reload was refused"))
		}
		r, err := l.read()
		if err != nil {
			return err
		}
		if left = Left(base, r, "sockets", "other files", "goroutines"); left != nil {
			return fmt.Errorf("left: %s", strings.Join(left, "; "))
		}
		return nil
	})
}

// idle says whether the relay has no flow open.
func (l *lab) idle() error {
	metrics, err := l.metrics()
	if err != nil {
		return err
	}
	if open := sum(metrics, "splitd_flows_active{") - active(metrics, "routed"); open > 0 {
		return fmt.Errorf("%.0f flows are open", open)
	}
	return nil
}

// await waits until there is no error.
func (l *lab) await(t *testing.T, what string, holds func() error) {
	t.Helper()
	nettest.Eventually(t, what, func() bool { return holds() == nil }, func() any { return holds() })
}

func list(counts map[string]int) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "  %-24s %d\n", name, counts[name])
	}
	return b.String()
}
