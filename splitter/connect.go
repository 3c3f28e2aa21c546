package splitter

import (
	"log/slog"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// admit makes a flow of a connection that a front has accepted, or resets it
// where there are too many already.
func (w *worker) admit(socket int, from netip.AddrPort, at *front) {
	c := at.choice.Load()
	who := from.Addr()
	if c.proxies.Contain(who) {
		who = netip.Addr{} // a header will tell
	}
	counted, refused := c.enter(who)
	if refused != "" {
		w.edge.reset(socket)
		w.tellRefused(c, from.Addr(), refused)
		return
	}
	f := w.take(filesOfFlow)
	f.stage, f.choice, f.client, f.counted = connecting, c, from, counted.IsValid()
	f.sockets = [2]int32{client: int32(socket), backend: -1}
	f.stream = opened(c.proxy.NoSplice)
	if c.inlet != nil {
		c.inlet.open.Add(1)
	}
	defer w.guard(f)
	if errno := w.poller.add(socket, connection, f.ticket(ofClient)); errno != 0 {
		c.gate.lack(errno)
		w.failed(at.address.AddrPort, errno, restAll)
		w.abort(f, endShort)
		return
	}
	if !who.IsValid() {
		w.await(f, at)
		return
	}
	if c.inlet != nil {
		w.goOnWith(f)
		return
	}
	w.note(f)
	w.serve(f)
}

// serve has a flow whose client is known served.
func (w *worker) serve(f *flow) {
	first, why := w.choose(f)
	f.because(why)
	w.sample(f, why)
	w.try(f, first)
}

// tellRefused says that a limit keeps a client out.
func (w *worker) tellRefused(c *choice, from netip.Addr, limit traffic.Refusal) {
	if left, ok := w.relay.quiet.allow(string(limit)+" of "+c.split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("flow refused: a limit is reached", "limit", "proxy."+string(limit), "split", c.split, "client", from.String(), "left_out", left)
		})
	}
}

// take opens a flow that has so many files.
func (w *worker) take(files int64) *flow {
	w.relay.files.used.Add(files)
	return w.flows.take()
}

func (f *flow) ticket(kind ticketKind) ticket {
	return ticket{kind: kind, place: f.place, turn: f.turn}
}

// try begins to connect the flow to a backend. Nothing has been read from the
// client yet, so it does not notice which; what it sends waits in its socket.
func (w *worker) try(f *flow, t *target) {
	if f.udp() {
		w.associate(f, t)
		return
	}
	f.target = t
	socket, errno := w.dial(f, t)
	if errno != 0 {
		w.refused(f, errno)
		return
	}
	f.sockets[backend] = int32(socket)
	if errno := w.poller.add(socket, connection, f.ticket(ofBackend)); errno != 0 {
		w.refused(f, errno)
		return
	}
	w.pause = 0 // there is enough of everything
	if !f.mayFallBack() || f.times.connect == 0 {
		f.times.connect = 0
		if patience := f.connectPatience(w.relay.last); patience > 0 {
			f.times.connect = w.tick() + ticks(patience)
		}
	}
	w.appoint(f)
}

// lastPatience is the least that an attempt may take behind which there is nobody:
// the kernel sends a SYN that got lost again after 1, 3 and 7 s (RFC 6298, section
// 2), and a client that is reset meanwhile would have been served without us.
const lastPatience = 10 * time.Second

// connectPatience is how long the target may take to be connected, 0 for as long
// as the kernel tries; last is lastPatience.
func (f *flow) connectPatience(last time.Duration) time.Duration {
	patience := f.choice.proxy.ConnectTimeout
	if patience > 0 && !f.mayFallBack() && f.others.left == 0 {
		return max(patience, last)
	}
	return patience
}

// mayFallBack says whether there is somebody else to be tried.
func (f *flow) mayFallBack() bool {
	return f.primary != nil && f.choice.proxy.Fallback != traffic.FallbackNone
}

// overdue goes on after the target has had its time. The round may be late, and
// the news with it, so the kernel is asked what became of the attempt.
func (w *worker) overdue(f *flow) {
	if cause := w.edge.attempt(int(f.sockets[backend])); cause != 0 {
		w.refused(f, cause)
		return
	}
	w.connected(f, news{writable: true})
}

// another is the next address of the same backend to try after one that has failed.
// Where nobody stands behind it, all are tried, each for as long as a connect may
// take. Those of a candidate that the primary stands behind have that time together:
// a client waits for a candidate for one connect timeout at most.
func (w *worker) another(f *flow, cause syscall.Errno) *target {
	if cause == unix.ETIMEDOUT && f.mayFallBack() {
		return nil
	}
	return w.open(f)
}

// refused goes on after the target could not be connected: to another address of
// its backend, to the primary, or to the end.
func (w *worker) refused(f *flow, cause syscall.Errno) {
	w.activate(f, false)
	if f.sockets[backend] >= 0 {
		w.edge.close(int(f.sockets[backend]))
		f.sockets[backend] = -1
	}
	w.blame(f, cause)
	switch next := w.another(f, cause); {
	case next != nil:
		w.try(f, next)
	case !f.mayFallBack():
		w.abort(f, f.endOf(cause))
	default:
		w.tryPrimary(f, traffic.ButFallback)
	}
}

// tryPrimary begins to connect the flow to the primary instead.
func (w *worker) tryPrimary(f *flow, but traffic.But) {
	f.diverted(but)
	w.try(f, w.turnToPrimary(f))
}

// endOf is how a flow ends whose last attempt failed for that cause.
func (f *flow) endOf(cause syscall.Errno) ending {
	switch {
	case f.ours(cause):
		return endShort
	case cause == unix.ETIMEDOUT:
		return endUnanswered
	}
	return endRefused
}

// blame counts a failed attempt where it belongs.
func (w *worker) blame(f *flow, cause syscall.Errno) {
	split, name := f.choice.split, f.target.name
	if isScarce(cause) {
		w.lack = cause
		w.rest(restAll)
	}
	if f.ours(cause) {
		f.trouble(cause)
		w.relay.faults.dials.Add(1)
		transparent := f.choice.proxy.Transparent
		if left, ok := w.relay.quiet.allow("local fault", time.Now()); ok {
			w.relay.say(func(log *slog.Logger) {
				warnOurs(log.With("split", split, "backend", name, "error", cause, "left_out", left), transparent, cause)
			})
		}
		return
	}
	w.tally(f).failed.Add(1)
	w.missed(f)
	f.trouble(cause)
	address := f.target.address
	if left, ok := w.relay.quiet.allow(address, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("connect backend", "split", split, "backend", name, "address", address, "error", cause, "left_out", left)
		})
	}
}

// tally is where this worker counts for the flow's target.
func (w *worker) tally(f *flow) *tally { return &f.target.counter.tallies[w.number] }

// connected begins to relay. The news that the backend takes bytes may be that
// of its first ones, and of its end, too.
func (w *worker) connected(f *flow, n news) {
	f.stage = relaying
	t := w.tally(f)
	t.flows.Add(1)
	t.active.Add(1)
	f.times.connect = 0
	f.times.lasting = w.now + ticks(f.lastingAfter())
	if timeout := f.choice.proxy.IdleTimeout; timeout > 0 {
		f.times.idle = w.now + ticks(timeout)
	}
	if timeout := f.choice.proxy.FirstByteTimeout; timeout > 0 {
		f.times.first = w.now + ticks(timeout)
	} else {
		w.served(f)
	}
	w.appoint(f)
	w.tellBegin(f)
	w.tap(f)
	if w.lends(f) {
		return
	}
	w.introduce(f)
	f.stream = f.stream.hear(backend, n)
	w.pump(f)
}
