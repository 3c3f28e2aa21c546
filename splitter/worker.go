package splitter

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is what is read at once, less where much is kept: see room.
	bufferSize   = 64 << 10
	bufferScarce = 4 << 10
	bufferLeast  = 512
	// eventsAtOnce and acceptsAtOnce bound how long others wait in one round,
	// actsAtOnce and bytesAtOnce how long they wait for one flow.
	eventsAtOnce  = 256
	acceptsAtOnce = 64
	actsAtOnce    = 32
	bytesAtOnce   = 1 << 20
)

// worker relays a share of the flows, alone: it has a thread, listeners,
// connections and memory of its own and shares none of them. What others want
// of it comes by post.
type worker struct {
	relay  *Relay
	number int
	edge   edge
	poller *poller
	born   time.Time

	now       int64 // ticks since born
	yielded   int64 // the tick of the last yield
	flows     slab
	wheel     *wheel
	listeners []listener // by the place in their tickets
	abandoned []int      // see abandon
	loans     loans
	pause     time.Duration // of the last accept error, 0 since one succeeded
	resting   resting       // what is not accepted
	lack      syscall.Errno // for lack of which
	reserve   int           // a descriptor that can be given up
	paused    []ticket      // flows that had more to do than one round allows
	due       []int32
	buffer    []byte
	fresh     []byte   // the part of buffer that the newest recv filled
	spares    [][]byte // for rests
	kept      int      // bytes of memory that rests have
	keptMost  int      // see room
	pipes     pipes
	draining  bool
	called    bool // the bell has rung
	busy      bool // events come faster than they are heard
	talks

	mail    mail
	handing atomic.Int32  // datagrams in mail, see handover.go
	ended   chan struct{} // closed when the worker is no more
}

// mail is what others want a worker to do.
type mail struct {
	mu     sync.Mutex
	orders []func()
	closed bool
}

// worksAlone is the id of the worker itself in its wheel.
const worksAlone int32 = 0

func newWorker(r *Relay, number int, e edge) (*worker, error) {
	p, err := newPoller(eventsAtOnce, e)
	if err != nil {
		return nil, fmt.Errorf("start worker %d: %w", number, err)
	}
	reserve, err := newReserve()
	if err != nil {
		p.close()
		return nil, fmt.Errorf("start worker %d: %w", number, err)
	}
	return &worker{
		reserve: reserve, relay: r, number: number, edge: e, poller: p, born: r.born,
		wheel: newWheel(0), buffer: make([]byte, bufferSize), keptMost: r.keptMost, pipes: pipes{most: pipesFor(number, r.wanted)},
		loans: newLoans(), ended: make(chan struct{}),
	}, nil
}

// run works until it drains and its last flow has ended. An error is the
// kernel's, and nothing of this worker's is served any more.
func (w *worker) run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer w.end()
	for !w.draining || w.flows.open > 0 || w.hearsAll() {
		events, err := w.news()
		if err != nil {
			return fmt.Errorf("worker %d: %w", w.number, err)
		}
		w.round(events)
		w.yield()
	}
	return nil
}

// yieldEvery is half of what the Go scheduler lets a goroutine go on for, in
// ticks.
const yieldEvery = 5

// yield has the Go scheduler begin with this goroutine anew. Of one that has
// gone on for 10 ms it thinks that it keeps others waiting: it takes from each
// of its waits what it needs to go on, has it stop by a signal, and looks 20,000
// times a second whether there is more of that to do (sysmon and retake in
// runtime/proc.go, Go 1.26), with a seventh of all that a busy relay spends.
//
// Meanwhile it is not locked to its thread: the scheduler would have to begin with
// another thread, which has to wake up, find the goroutine and wake this one up again
// (stoplockedm), and all flows would wait until the kernel has had both run. Nothing of
// the worker's is the thread's, so it may go on with another.
func (w *worker) yield() {
	if w.now-w.yielded >= yieldEvery {
		w.yielded = w.now
		runtime.UnlockOSThread()
		runtime.Gosched()
		runtime.LockOSThread()
	}
}

// round does what a batch of events asks for, then what is due besides. Orders
// come behind the events: they may close a socket of which there are news, and
// have another take its place in its flow.
func (w *worker) round(events []unix.EpollEvent) {
	w.now = w.tick()
	for i := range events {
		w.hear(&events[i])
	}
	if w.waiting > 0 {
		w.flush()
	}
	if w.called {
		w.called = false
		w.poller.silence()
		w.obey()
	}
	w.goOn()
	w.expire()
	w.flows.trim()
}

// news are the events that are there. It waits for one only where there is none
// and nothing else to do. A worker with little to do seldom finds any that it need
// not wait for, so it does not look before it waits: a call less of six.
func (w *worker) news() ([]unix.EpollEvent, error) {
	if w.busy || len(w.paused) > 0 {
		events, err := w.poller.poll()
		if err != nil || len(events) > 0 || len(w.paused) > 0 {
			return events, err
		}
	}
	events, err := w.poller.wait(w.patience())
	w.busy = len(events) >= busyFrom
	return events, err
}

// busyFrom is how many events at once after a wait are the sign of more: below, a
// call that does not tell the Go scheduler that it waits saves less than one that
// finds nothing costs.
const busyFrom = 3

// patience is how long a wait may last, in milliseconds.
func (w *worker) patience() int {
	at, ok := w.wheel.next()
	if !ok {
		return -1
	}
	return int(max(at-w.tick(), 0))
}

// tick is the one that it is now: later than that of the round.
func (w *worker) tick() int64 { return int64(time.Since(w.born) / time.Millisecond) }

// hear does what an event asks for.
func (w *worker) hear(e *unix.EpollEvent) {
	t := ticketOf(e)
	switch t.kind {
	case ofBell:
		w.called = true
	case ofListener:
		w.knocked(t.place)
	case ofClient:
		if f := w.flows.find(t); f != nil {
			w.heard(f, client, newsOf(e))
		}
	case ofBackend:
		if f := w.flows.find(t); f != nil {
			w.heard(f, backend, newsOf(e))
		}
	}
}

// heard takes the news of a side to its flow.
func (w *worker) heard(f *flow, from side, n news) {
	defer w.guard(f)
	switch {
	case f.udp():
		w.replied(f)
		return
	case f.carriage != nil:
		w.heardOfCarried(f, from, n)
		return
	}
	if f.stage == relaying {
		f.stream = f.stream.hear(from, n)
		w.pump(f)
		return
	}
	switch {
	case f.stage == probing:
		w.heardOfProbe(f, n)
	case f.stage == awaiting:
		f.stream = f.stream.hear(from, n)
		w.readHeader(f)
	case from == client:
		f.stream = f.stream.hear(from, n)
	case n.reset:
		w.refused(f, w.edge.fault(int(f.sockets[backend])))
	case n.writable:
		w.connected(f, n)
	}
}

// goOn continues with the flows that had more to do than the last round
// allowed.
func (w *worker) goOn() {
	for n := len(w.paused); n > 0; n-- {
		t := w.paused[0]
		w.paused = w.paused[1:]
		if f := w.flows.find(t); f != nil {
			f.paused = false
			w.resume(f)
		}
	}
	if len(w.paused) == 0 {
		w.paused = nil
	}
}

func (w *worker) resume(f *flow) {
	defer w.guard(f)
	w.pump(f)
}

// guard keeps a panic to the flow that it happened in. It is deferred by what
// handles a flow.
func (w *worker) guard(f *flow) {
	v := recover()
	if v == nil {
		return
	}
	w.relay.faults.panics.Add(1)
	split, stack := "", string(debug.Stack())
	if f.choice != nil {
		split = f.choice.split
	}
	if left, ok := w.relay.quiet.allow("panic of "+split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Error("a flow panicked and is cut off", "split", split, "panic", fmt.Sprint(v), "stack", stack, "left_out", left)
		})
	}
	w.abort(f, endFault)
}

// post has the worker do something, soon and in the order of the posts. It may
// be called from any goroutine. When the worker has ended, it is done here.
func (w *worker) post(order func()) {
	if w.tryPost(order) {
		return
	}
	<-w.ended
	order()
}

// tryPost is post of what may be left undone, and is when the worker has ended: of two
// that end at once, neither waits for the other. It says whether it will be done.
func (w *worker) tryPost(order func()) bool {
	w.mail.mu.Lock()
	defer w.mail.mu.Unlock()
	if w.mail.closed {
		return false
	}
	w.mail.orders = append(w.mail.orders, order)
	w.poller.ring()
	return true
}

// soon has the worker go on with something in a later round. It is called on
// the worker's own thread.
func (w *worker) soon(order func()) {
	if !w.tryPost(order) { // there is no later round
		order()
	}
}

// obey does what has come by post.
func (w *worker) obey() {
	w.mail.mu.Lock()
	orders := w.mail.orders
	w.mail.orders = nil
	w.mail.mu.Unlock()
	for _, order := range orders {
		order()
	}
}

// hasEnded says that the worker is no more: what it is asked to do others do for it.
func (w *worker) hasEnded() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// end closes what the worker still has, and its post.
func (w *worker) end() {
	defer close(w.ended)
	w.mail.mu.Lock()
	w.mail.closed = true
	w.mail.mu.Unlock()
	w.obey()
	w.flows.each(func(f *flow) { w.visit(f, func(f *flow) { w.abort(f, endStopped) }) })
	for i := range w.listeners {
		w.abandon(int32(i))
	}
	w.pipes.close(w.edge)
	w.edge.close(w.reserve)
	w.poller.close()
}
