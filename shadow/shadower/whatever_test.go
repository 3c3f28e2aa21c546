package shadower

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/traffic"
)

// ordeal is a play to whose process anything may happen.
type ordeal struct {
	t      *testing.T
	th     *theatre
	random *rand.Rand
	split  traffic.Split
	play   *Play
	taps   []*Tap // of flows that go on

	flows, since int // that were told of: all, and those behind the last reset
	secured      int // those of them with handshakes
	deaths       int
	stopped      bool // the process
	closing      sync.WaitGroup
}

// step is one thing that happens.
func (o *ordeal) step() {
	steps := []func(){
		o.visit, o.visit, o.visit, o.visit, o.crowd, o.crowd, o.secure, o.secure, o.unseen, o.open, o.open, o.cut, o.end, o.kill, o.stop, o.goOn, o.goOn, o.save, o.save, o.turn, o.turn, o.reset, o.follow, o.ask,
	}
	steps[o.random.IntN(len(steps))]()
}

func (o *ordeal) visit() { o.flows, o.since = o.flows+1, o.since+1; visit(o.play, o.worker()) }

// worker is one of two threads, or none.
func (o *ordeal) worker() int { return o.random.IntN(3) - 1 }

// crowd are flows of many who have no thread, at once.
func (o *ordeal) crowd() {
	const many = 6
	o.flows, o.since = o.flows+many, o.since+many
	var telling sync.WaitGroup
	defer telling.Wait()
	for range many {
		telling.Go(func() { visit(o.play, Anybody) })
	}
}

// secure begins a flow inside TLS, which the candidate does not speak, or has one of those that
// go on be secured, or not be seen from here on.
func (o *ordeal) secure() {
	o.secured++
	if i := len(o.taps) - 1; i >= 0 && o.random.IntN(2) == 0 {
		goesOn := o.taps[i].Opaque("HTTP/2", time.Now())
		if o.random.IntN(2) == 0 {
			goesOn = goesOn && o.taps[i].Secure(handshake, time.Now())
		}
		if !goesOn {
			o.taps = o.taps[:i]
		}
		return
	}
	o.flows, o.since = o.flows+1, o.since+1
	of := flow
	of.TLS = &handshake
	if tap := o.play.Open(of, o.worker()); tap != nil && tap.Take(shadow.Client, []byte(request), false, time.Now()) {
		o.taps = append(o.taps, tap)
	}
}

// unseen is a flow that is passed on unseen.
func (o *ordeal) unseen() {
	o.flows, o.since = o.flows+1, o.since+1
	of := flow
	of.Opaque = "HTTP/2"
	if tap := o.play.Open(of, o.worker()); tap != nil {
		tap.End(shadow.Closed, time.Now())
	}
}

// open begins a flow that goes on.
func (o *ordeal) open() {
	o.flows, o.since = o.flows+1, o.since+1
	if tap := o.play.Open(flow, o.worker()); tap != nil && tap.Take(shadow.Client, []byte(request), false, time.Now()) {
		o.taps = append(o.taps, tap)
	}
}

// end ends the oldest.
func (o *ordeal) end() {
	if len(o.taps) > 0 {
		o.taps[0].End([]shadow.End{shadow.Closed, shadow.Reset}[o.random.IntN(2)], time.Now())
		o.taps = o.taps[1:]
	}
}

// cut begins a flow that is reset by the primary.
func (o *ordeal) cut() {
	o.flows, o.since = o.flows+1, o.since+1
	if tap := o.play.Open(flow, o.worker()); tap != nil && tap.Take(shadow.Client, []byte(request), false, time.Now()) {
		tap.EndByPrimary(shadow.Reset, time.Now())
	}
}

// signal sends the process one, if there is a process.
func (o *ordeal) signal(s syscall.Signal) bool {
	o.th.mu.Lock()
	l := o.th.life
	o.th.mu.Unlock()
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cmd != nil && l.cmd.Process.Signal(s) == nil
}

func (o *ordeal) kill() {
	const most = 3 // the pauses grow
	if o.deaths < most && o.signal(syscall.SIGKILL) {
		o.deaths++
		o.stopped = false
	}
}

func (o *ordeal) stop() { o.stopped = o.signal(syscall.SIGSTOP) || o.stopped }

func (o *ordeal) goOn() {
	if o.stopped {
		o.signal(syscall.SIGCONT)
		o.stopped = false
	}
}

func (o *ordeal) save() {
	if !o.stopped { // else it is waited for
		_, _, _ = o.play.Bytes()
	}
}

func (o *ordeal) turn() {
	if o.random.IntN(2) == 0 {
		o.play.Halt()
	} else {
		o.play.Begin()
	}
}

func (o *ordeal) reset() {
	if o.stopped {
		return
	}
	if _, err := o.play.Reset(); err == nil {
		o.since = 0
	}
}

// follow gives the split another definition.
func (o *ordeal) follow() {
	before := o.play
	o.split.Shadow.Ignore = []string{fmt.Sprintf("ignore header x-%d", o.flows)}
	o.play = o.th.play(o.t, Options{Split: o.split, After: before})
	o.play.Begin()
	before.Halt()
	o.closing.Go(before.Close)
}

func (o *ordeal) ask() { o.play.Numbers() }

// settle has all flows end, and wants each to be accounted for.
func (o *ordeal) settle() {
	o.goOn()
	for len(o.taps) > 0 {
		o.end()
	}
	o.closing.Wait()
	var n play.Numbers
	var r report.Report
	nettest.Eventually(o.t, "each flow is counted", func() bool {
		n = o.play.Numbers()
		r = reportOf(o.t, o.play)
		return n.Away == "" && n.Open == 0 && r.Cover.Eligible >= int64(o.since)
	}, func() any {
		return fmt.Sprintf("of %d flows, %d behind a reset: %+v, %+v, %+v", o.flows, o.since, n, r.Cover, r.NotCompared)
	})
	reasons := int64(0)
	for _, why := range r.NotCompared {
		reasons += why.Count
	}
	// A flow has two exchanges at most, with a handshake another one, and may be lost beside
	// what a save has of it.
	if c := r.Cover; !c.AddsUp() || c.Eligible > int64(3*o.flows+o.secured) || reasons != c.Eligible-c.Compared {
		o.t.Errorf("of %d flows, %d behind a reset, there is %+v, %+v", o.flows, o.since, c, r.NotCompared)
	}
}

func TestEveryFlowIsCountedWhateverBecomesOfTheProcess(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := &ordeal{t: t, th: newTheatre(t, 4<<20), random: rand.New(rand.NewPCG(seed, 5)), split: split(website(t, `{"n":1}`))}
			o.play = o.th.play(t, Options{Split: o.split})
			o.play.Begin()
			for range 60 {
				o.step()
			}
			o.settle()
		})
	}
}
