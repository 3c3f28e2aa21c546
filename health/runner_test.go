package health_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/traffic"
)

// backends answer checks as they are told; they keep when each check began.
type backends struct {
	mu      sync.Mutex
	dead    map[netip.Addr]bool
	broken  bool // no check can be made
	takes   time.Duration
	hangs   bool // a dead one answers nothing, instead of refusing
	began   map[netip.Addr][]time.Time
	running int
	most    int
}

func (b *backends) Check(ctx context.Context, t health.Target) health.Result {
	b.mu.Lock()
	b.began[t.Address] = append(b.began[t.Address], time.Now())
	dead, takes, broken := b.dead[t.Address], b.takes, b.broken
	if dead && b.hangs {
		takes = time.Hour
	}
	b.running++
	b.most = max(b.most, b.running)
	b.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-time.After(takes):
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running--
	switch {
	case broken:
		return health.Result{Reason: "no file descriptor is left"}
	case dead:
		return health.Result{Outcome: health.Failed, Reason: "refused"}
	}
	return health.Result{Outcome: health.Passed}
}

// kill ends 10.0.0.12, or revives it.
func (b *backends) kill(dead bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dead[ip("10.0.0.12")] = dead
}

func (b *backends) checks(address string) []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.began[ip(address)]
}

// scene is a runner in a bubble of testing/synctest.
type scene struct {
	t        *testing.T
	backends *backends
	runner   *health.Runner
	log      *strings.Builder

	mu     sync.Mutex
	events []health.Event
}

func newScene(t *testing.T, limit int) *scene {
	s := &scene{t: t, backends: &backends{dead: map[netip.Addr]bool{}, began: map[netip.Addr][]time.Time{}}, log: &strings.Builder{}}
	random := rand.New(rand.NewPCG(1, 2))
	s.runner = health.New(health.Options{
		Checker: s.backends,
		Notify: func(e health.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
		},
		Now: time.Now, Rand: random.Float64, Limit: limit,
		Log: slog.New(slog.NewTextHandler(&lines{to: s.log}, nil)),
	})
	return s
}

// lines is a writer for many goroutines.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// run starts the runner until the test ends.
func (s *scene) run() {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.runner.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
}

// took waits for the next event and says how long it took.
func (s *scene) took() (health.Event, time.Duration) {
	s.t.Helper()
	s.mu.Lock()
	before := len(s.events)
	s.mu.Unlock()
	for began := time.Now(); time.Since(began) < time.Hour; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		events := s.events
		s.mu.Unlock()
		if len(events) > before {
			return events[before], time.Since(began)
		}
	}
	s.t.Fatal("within an hour there was no event")
	return health.Event{}, 0
}

func target(address string) health.Target {
	return health.Target{
		Key: health.Key{Split: "mx", Backend: "new", Address: ip(address)}, Port: 25, Transport: traffic.TCP,
		Health: traffic.Health{Check: traffic.CheckTCP, Interval: 2 * time.Second, Timeout: time.Second, Fall: 2, Rise: 3},
	}
}

func fresh(health.Key) health.State { return health.Checking }

func TestADeadTargetIsDownWithinIntervalTimesFallPlusTimeout(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		for offset := range 20 { // into the interval
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, 10)
				s.backends.hangs = hangs
				s.runner.Set([]health.Target{target("10.0.0.12")}, fresh)
				s.run()
				if e, took := s.took(); e.To != health.Up || took > 10*time.Millisecond {
					t.Fatalf("after %v it is %s, want up at once", took, e.To)
				}
				time.Sleep(time.Duration(10+offset) * 100 * time.Millisecond)
				s.backends.kill(true)
				e, took := s.took()
				if most := 2*2*time.Second + time.Second; took > most {
					t.Errorf("hanging %v: down after %v, want at most %v", hangs, took, most)
				}
				want := health.Event{Key: target("10.0.0.12").Key, From: health.Up, To: health.Down, Reason: "2 checks in a row failed: refused", At: e.At, Port: 25}
				if diff := cmp.Diff(want, e, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
				s.backends.kill(false)
				if e, took := s.took(); e.To != health.Up || took > 7*time.Second || e.Reason != "3 checks in a row passed" {
					t.Errorf("after %v it is %s (%s), want up within 7 s", took, e.To, e.Reason)
				}
			})
		}
	}
}

func TestManyTargetsAreNotCheckedAtOneInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 100_000)
		var targets []health.Target
		for i := range 10_000 {
			one := target(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String())
			targets = append(targets, one)
		}
		began := time.Now()
		s.runner.Set(targets, fresh)
		s.run()
		time.Sleep(20 * time.Second)
		perMoment := map[time.Duration]int{}
		for _, one := range targets {
			checks := s.backends.checks(one.Address.String())
			if first := checks[0].Sub(began); first > one.Health.Interval {
				t.Fatalf("the first check began after %v, want within the interval", first)
			}
			for i, at := range checks {
				perMoment[at.Sub(began)/(10*time.Millisecond)]++
				if i == 0 {
					continue
				}
				if apart := at.Sub(checks[i-1]); apart > 2*time.Second || apart < 1800*time.Millisecond {
					t.Fatalf("two checks began %v apart, want 1.8 s to 2 s", apart)
				}
			}
		}
		for moment, n := range perMoment {
			if n > 200 { // of 50 on average
				t.Errorf("in the 10 ms after %v began %d checks", moment*10*time.Millisecond, n)
			}
		}
	})
}

func TestOneTargetIsCheckedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 10)
		s.runner.Set([]health.Target{target("10.0.0.12")}, fresh)
		s.run()
		if _, took := s.took(); took > 10*time.Millisecond {
			t.Errorf("the first result took %v, want at most 10 ms", took)
		}
	})
}

func TestNoMoreChecksThanAllowedRunAtOneTimeAndLateOnesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 4)
		s.backends.takes = time.Second
		var targets []health.Target
		for i := range 40 {
			targets = append(targets, target(fmt.Sprintf("10.0.0.%d", i)))
		}
		s.runner.Set(targets, fresh)
		s.run()
		time.Sleep(time.Minute)
		s.backends.mu.Lock()
		most := s.backends.most
		s.backends.mu.Unlock()
		if most != 4 {
			t.Errorf("%d checks ran at one time, want 4", most)
		}
		for _, one := range targets {
			if n := len(s.backends.checks(one.Address.String())); n < 4 {
				t.Errorf("%s was checked %d times in a minute: others took its turn", one.Address, n)
			}
		}
		if s.runner.Late() == 0 || strings.Count(s.log.String(), "checks are late") != 1 {
			t.Errorf("late are %d, the log says %q; want some, and one line a minute", s.runner.Late(), s.log)
		}
	})
}

func TestAChangedConfigurationKeepsTheStateOfWhatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 10)
		s.backends.kill(true)
		s.runner.Set([]health.Target{target("10.0.0.12"), target("10.0.0.13")}, fresh)
		s.run()
		time.Sleep(time.Minute)
		stays, goes, comes := target("10.0.0.12").Key, target("10.0.0.13").Key, target("10.0.0.14").Key
		if !s.runner.IsDown(stays) || s.runner.IsDown(goes) {
			t.Fatal("the one is not down, or the other is")
		}
		changed := target("10.0.0.12")
		changed.Port = 26
		s.runner.Set([]health.Target{changed, target("10.0.0.14")}, fresh)
		if !s.runner.IsDown(stays) {
			t.Error("another port made it up without a check")
		}
		states := map[health.Key]health.State{}
		for _, status := range s.runner.Of("mx") {
			states[status.Key] = status.State
		}
		want := map[health.Key]health.State{stays: health.Down, comes: health.Checking}
		if diff := cmp.Diff(want, states, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
		removed := len(s.backends.checks("10.0.0.13"))
		time.Sleep(time.Minute)
		if n := len(s.backends.checks("10.0.0.13")); n != removed {
			t.Errorf("a target that is gone was checked %d times more", n-removed)
		}
		if len(s.runner.Of("other")) != 0 || s.runner.IsDown(goes) {
			t.Error("what is not checked has a state")
		}
	})
}

func TestWhatWasWithdrawnBeforeTheStartStaysSoUntilItHasRisen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 10)
		s.runner.Set([]health.Target{target("10.0.0.12")}, func(health.Key) health.State { return health.Down })
		s.run()
		if !s.runner.IsDown(target("10.0.0.12").Key) {
			t.Error("it is not down before the first check")
		}
		e, took := s.took()
		if e.From != health.Down || e.To != health.Up || took < 3*time.Second {
			t.Errorf("after %v it went from %s to %s, want from down to up after 3 checks", took, e.From, e.To)
		}
	})
}

func TestACheckThatCannotBeMadeChangesNothingAndIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 10)
		s.runner.Set([]health.Target{target("10.0.0.12")}, fresh)
		s.run()
		s.took()
		s.backends.mu.Lock()
		s.backends.broken = true
		s.backends.mu.Unlock()
		time.Sleep(time.Minute)
		status := s.runner.Of("mx")[0]
		if status.Port != 25 {
			t.Errorf("it is checked at port %d, want 25", status.Port)
		}
		if status.State != health.Up || status.Trouble != "no file descriptor is left" {
			t.Errorf("it is %s with trouble %q, want up and the cause", status.State, status.Trouble)
		}
		if n := strings.Count(s.log.String(), "no file descriptor"); n != 1 {
			t.Errorf("the log says so %d times, want once: %s", n, s.log)
		}
	})
}

func TestReloadsDoNotDelayWhatIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, 10)
		s.runner.Set([]health.Target{target("10.0.0.12")}, fresh)
		s.run()
		s.took()
		s.backends.kill(true)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					s.runner.Set([]health.Target{target("10.0.0.12")}, fresh)
				}
			}
		}()
		if e, took := s.took(); e.To != health.Down || took > 5*time.Second {
			t.Errorf("after %v it is %s, want down after at most 5 s", took, e.To)
		}
	})
}
