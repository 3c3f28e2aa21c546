package splitter

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUnseen is what Carry returns to have the relay go on with the flow itself, unseen, as with
// one that nobody has sampled: spliced, and without a goroutine. All that was read of a side
// has been written to the other then.
var ErrUnseen = errors.New("the relay is to go on with the flow itself")

// errPanicked is how Carry ended that has not returned.
var errPanicked = errors.New("what carries the flow panicked")

// carriage is what the worker of a flow shares with the goroutine in which its tap carries it.
// All else of the flow is the worker's: the goroutine tells it by post.
//
// Each has descriptors of its own of both connections. So the worker may look at them and
// end them when it wants, and no number is closed that the other still uses.
type carriage struct {
	worker *worker
	ticket ticket // of its flow
	split  string
	tees   *teeCounts
	tally  *tally
	header []byte // of PROXY, which the primary gets first
	cancel context.CancelFunc
	sides  [2]*carried
	// first is the side whose FIN was passed on first, plus 1; 0: none was.
	first atomic.Int32
	// returned says that Carry has: a reset says nothing any more.
	returned atomic.Bool
}

// lends has the flow carried by its tap, if that is a Carrier, and says whether it is. Where
// there are no descriptors for that, the flow goes on unseen.
func (w *worker) lends(f *flow) bool {
	carrier, ok := f.tap.(Carrier)
	if !ok {
		return false
	}
	lent, errno := w.lend(f)
	if errno != 0 {
		w.tellUnlent(f, errno)
		w.tellTap(f, endShort)
		f.stream = f.stream.copied(f.choice.proxy.NoSplice)
		return false
	}
	f.tap, f.stream = nil, opened(f.choice.proxy.NoSplice)
	ctx, cancel := context.WithCancel(context.Background())
	c := &carriage{
		worker: w, ticket: f.ticket(ofClient), split: f.choice.split, tees: &f.choice.gate.tees, tally: w.tally(f),
		header: w.headerOf(f), cancel: cancel,
	}
	for s := range lent {
		c.sides[s] = &carried{carriage: c, side: side(s)}
	}
	f.carriage = c
	w.relay.carriages.Go(func() { c.run(ctx, carrier, lent) })
	return true
}

// lend makes descriptors of both connections for who carries the flow. The kernel tells the
// worker of their resets alone from then on, which it always does: epoll_ctl(2).
func (w *worker) lend(f *flow) (lent [2]int, errno syscall.Errno) {
	if w.relay.files.short(filesOfFlow, f.choice.inlet != nil) {
		return lent, w.relay.files.lack
	}
	for s, socket := range f.sockets {
		if lent[s], errno = w.edge.lend(int(socket)); errno != 0 {
			if side(s) == backend {
				w.edge.close(lent[client])
			}
			return lent, errno
		}
	}
	w.relay.files.used.Add(filesOfFlow)
	w.watchCarried(f, unix.EPOLLET)
	f.prompt = true
	w.edge.prompt(int(f.sockets[backend])) // who carries writes what belongs together at once
	return lent, 0
}

// watchCarried has the kernel tell of both sides what events say.
func (w *worker) watchCarried(f *flow, events uint32) {
	w.poller.change(int(f.sockets[client]), events, f.ticket(ofClient))
	w.poller.change(int(f.sockets[backend]), events, f.ticket(ofBackend))
}

func (w *worker) tellUnlent(f *flow, cause syscall.Errno) {
	split := f.choice.split
	if left, ok := w.relay.quiet.allow("lend "+split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("sampled flow goes on unseen: to see into it takes two more file descriptors", "split", split, "error", cause, "left_out", left)
		})
	}
}

// run carries the flow, and tells its worker how that ended.
func (c *carriage) run(ctx context.Context, carrier Carrier, lent [2]int) {
	err := errPanicked
	defer func() { c.end(ctx, err) }()
	if err = c.open(lent); err == nil {
		err = errPanicked
		err = c.carry(ctx, carrier)
	}
}

// open makes connections of the descriptors, and has the primary told whose the flow is.
func (c *carriage) open(lent [2]int) error {
	for s, conn := range c.sides {
		conn.open(lent[s])
	}
	for _, conn := range c.sides {
		if conn.file.SetDeadline(time.Time{}) != nil { // the kernel tells Go nothing of it
			return ErrUnseen
		}
	}
	if len(c.header) == 0 {
		return nil
	}
	if _, err := c.sides[backend].file.Write(c.header); err != nil {
		return c.sides[backend].failed("write", err)
	}
	c.header = nil
	return nil
}

// carry has the carrier carry it. A panic costs this flow alone.
func (c *carriage) carry(ctx context.Context, carrier Carrier) (err error) {
	defer func() {
		if v := recover(); v != nil {
			c.worker.relay.tellPanic("a carrier", c.split, v, func(log *slog.Logger) {
				log.Error("who carries flows panicked, and this one is cut off")
			})
			c.tees.panicked.Add(1)
			err = errPanicked
		}
	}()
	return carrier.Carry(ctx, c.sides[client], c.sides[backend])
}

// end gives back what was lent, and has the worker end the flow, or go on with it. The last
// descriptor is the worker's: how it closes that is how the flow ends.
func (c *carriage) end(ctx context.Context, err error) {
	c.returned.Store(true)
	w := c.worker
	if ctx.Err() == nil && !c.lost() && !errors.Is(err, ErrUnseen) && !errors.Is(err, errPanicked) {
		if err != nil {
			w.relay.tellUncarried(c.split, err)
		}
		c.linger()
	}
	for _, conn := range c.sides {
		_ = conn.file.Close()
	}
	w.relay.files.used.Add(-filesOfFlow)
	w.tryPost(func() { w.carriedOut(c, err) }) // else it has ended, with all its flows
}

// lost says whether a side is reset, also where nobody has read that.
func (c *carriage) lost() (one bool) {
	for _, conn := range c.sides {
		if conn.isReset() {
			conn.lost.Store(true)
		}
		one = one || conn.lost.Load()
	}
	return one
}

// whole says that both FINs were passed on.
func (c *carriage) whole() bool { return c.sides[client].shut.Load() && c.sides[backend].shut.Load() }

// linger ends all directions, and takes what the sides send yet until they have ended, too, for
// a while: a socket that is closed before it was read to the end is reset (RFC 2525, section
// 2.17), and the RST may overtake what was written.
func (c *carriage) linger() {
	until := time.Now().Add(lastWords)
	for _, conn := range c.sides {
		_ = conn.shutdown()
	}
	for _, conn := range c.sides {
		conn.exhaust(until)
	}
}

// tell has the worker look at the flow.
func (c *carriage) tell() {
	w := c.worker
	w.tryPost(func() {
		if f := w.flows.find(c.ticket); f != nil && f.carriage != nil {
			w.visit(f, w.lookAfter)
		}
	})
}

// heardOfCarried takes news of a side of a flow that is carried: a reset, which who carries it
// may not read soon.
func (w *worker) heardOfCarried(f *flow, from side, n news) {
	if n.reset && !f.carriage.returned.Load() {
		f.stream.lost[from], f.stream.ways[from].ended = true, true
		w.lookAfter(f)
	}
}

// lookAfter sees how far a flow is that is carried. Where a side is reset who carries it has a
// while to pass on what that has said before; where its FIN was passed on nothing is left to say.
func (w *worker) lookAfter(f *flow) {
	f.mirror()
	for s, lost := range f.stream.lost {
		if lost && f.stream.ways[s].shut {
			w.pump(f)
			return
		}
	}
	w.settle(f)
}

// mirror notes in the flow what has become of it while it is carried. Of both FINs the first
// alone is noted, so that it is known whose it was.
func (f *flow) mirror() {
	c := f.carriage
	if c == nil {
		return
	}
	in, out := c.sides[client], c.sides[backend]
	f.spoken, f.heard = out.written.Load() > 0, out.read.Load() > 0
	if f.line != nil {
		f.line.bytes = [2]uint64{client: in.read.Load(), backend: in.written.Load()}
	}
	if first := c.first.Load(); first != 0 {
		w := &f.stream.ways[first-1]
		w.ended, w.shut = true, true
	}
	for s, conn := range c.sides {
		if conn.lost.Load() {
			f.stream.lost[s], f.stream.ways[s].ended = true, true
			f.stream.told[s] = f.stream.told[s] || conn.told.Load()
			f.stream.gone[s] = f.stream.gone[s] || conn.gone.Load()
		}
	}
}

// carriedOut ends a flow that is carried no more, or goes on with it.
func (w *worker) carriedOut(c *carriage, err error) {
	f := w.flows.find(c.ticket)
	if f == nil {
		return // it was cut off
	}
	w.visit(f, func(f *flow) {
		f.mirror()
		f.carriage = nil
		switch {
		case errors.Is(err, errPanicked):
			w.relay.faults.panics.Add(1)
			w.abort(f, endFault)
		case err == nil && c.whole():
			w.finish(f)
		case f.stream.parting():
			w.pump(f)
		case errors.Is(err, ErrUnseen):
			w.takeOver(f, c)
		case err != nil:
			w.conclude(f, w.edge.close, endFailed)
		default:
			w.finish(f)
		}
	})
}

// takeOver goes on with a flow that is to be carried no more.
func (w *worker) takeOver(f *flow, c *carriage) {
	if c.whole() {
		w.finish(f)
		return
	}
	w.watchCarried(f, connection) // which tells of all that is there
	if len(c.header) > 0 {
		w.introduce(f)
	}
	w.pump(f)
}

// tellUncarried says why a flow was not carried to its end.
func (r *Relay) tellUncarried(split string, cause error) {
	if left, ok := r.quiet.allow("carrier of "+split, time.Now()); ok {
		r.say(func(log *slog.Logger) {
			log.Info("flow ended before its time: it could not be carried on", "split", split, "error", cause, "left_out", left)
		})
	}
}
