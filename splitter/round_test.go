package splitter

import (
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// One batch of the kernel may hold both: that somebody has given an order, which
// closes a socket, and news of that socket. The news must not be taken for that
// of the socket which has come in its place.
func TestNewsOfAnAttemptThatIsTakenBackAreNotTakenForThePrimarys(t *testing.T) {
	ip := families()["IPv4"]
	for name, test := range map[string]struct {
		news   uint32
		stage  stage
		target string
	}{
		"the candidate refuses": {unix.EPOLLERR | unix.EPOLLHUP | unix.EPOLLIN | unix.EPOLLOUT, connecting, "old"},
		"it answers":            {unix.EPOLLOUT, relaying, "new"}, // in time
	} {
		t.Run(name, func(t *testing.T) {
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, blackhole(t, ip), map[string]candidate{"new": {blackhole(t, ip), traffic.Whole}})
			split.Proxy.ConnectTimeout = time.Minute
			r := startRelay(t, Options{Workers: 1}, split)
			dial(t, service)
			nettest.Eventually(t, "the attempt waits", func() bool { return r.openFlows() == 1 })
			r.inspect(func(w *worker) {
				var f *flow
				w.flows.each(func(one *flow) { f = one })
				w.post(func() {
					if f.stage == connecting && f.primary != nil {
						w.takeBack(f, traffic.ButClosed)
					}
				})
				w.round([]unix.EpollEvent{ticket{kind: ofBell}.event(unix.EPOLLIN), f.ticket(ofBackend).event(test.news)})
				if f.target == nil {
					t.Error("the client was cut off")
					return
				}
				if f.stage != test.stage || f.target.name != test.target || f.stage == connecting && f.times.connect == 0 {
					t.Errorf("the flow is at stage %d with %q, its attempt ends at %d", f.stage, f.target.name, f.times.connect)
				}
			})
			if got := r.numbers("old"); got != (numbers{}) {
				t.Errorf("the primary, which has not answered, has the counts %+v", got)
			}
		})
	}
}

// Whoever never lets the Go scheduler begin with him anew is stopped by it, at a
// cost that falls on all flows.
func TestABusyWorkerYieldsOftenEnoughNotToBeStopped(t *testing.T) {
	w := &worker{}
	for w.now = range int64(100) {
		w.yield()
		if since := w.now - w.yielded; since >= yieldEvery {
			t.Fatalf("at tick %d the last yield was %d ticks ago", w.now, since)
		}
	}
	const stopped = 10 // forcePreemptNS in runtime/proc.go, in ticks
	if yieldEvery >= stopped {
		t.Errorf("it yields every %d ticks and is stopped after %d", yieldEvery, stopped)
	}
}

// What the Go scheduler lets run instead of it has run when yield returns.
func TestAWorkerThatYieldsLetsOthersRun(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var ran atomic.Bool
	w := &worker{}
	go ran.Store(true)
	for range 2 { // it looks elsewhere first once in 61 times
		w.now += yieldEvery
		w.yield()
	}
	if !ran.Load() {
		t.Error("a goroutine that waits for this processor has not run")
	}
}

// The runtime says so of a goroutine in the head of its stack.
func TestAWorkerIsLockedToItsThreadWhileItWorks(t *testing.T) {
	ip := families()["IPv4"]
	r := startRelay(t, Options{Workers: 2}, newSplit("mx", netip.AddrPortFrom(ip, freePort()), startServer(t, ip, echo), nil))
	r.inspect(func(w *worker) {
		for _, when := range []string{"at first", "after a yield"} {
			stack := make([]byte, 100) // "goroutine 7 [running, locked to thread]:"
			if is := string(stack[:runtime.Stack(stack, false)]); !strings.Contains(is, "locked to thread") {
				t.Errorf("%s worker %d is %q", when, w.number, is)
			}
			w.now += yieldEvery
			w.yield()
		}
	})
}

// A yield that had to wait for another thread would have all flows wait for as long as
// the kernel takes to run it.
func TestAWorkerYieldsWithoutWaitingForAnotherThread(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // no other thread is woken to help
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const yields = 1000
	w := &worker{}
	before := waits(t)
	for range yields {
		w.now += yieldEvery
		w.yield()
	}
	if waited := waits(t) - before; waited > yields/10 {
		t.Errorf("in %d yields the process's threads have waited %d times", yields, waited)
	}
}

// waits is how often threads of this process have given up their processor to wait.
func waits(t *testing.T) int64 {
	t.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return used.Nvcsw
}

func BenchmarkYield(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w := &worker{}
	for b.Loop() {
		w.now += yieldEvery
		w.yield()
	}
}
