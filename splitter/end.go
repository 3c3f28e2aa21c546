package splitter

import (
	"log/slog"
	"math"
	"time"
)

// finish closes both sides after all has been passed on.
func (w *worker) finish(f *flow) { w.conclude(f, w.edge.close, endWhole) }

// abort cuts the flow off: both sides get an RST.
func (w *worker) abort(f *flow, how ending) { w.conclude(f, w.edge.reset, how) }

// conclude ends a flow. Where it panics it is called again (guard), so what is done
// is not done twice: the number of a closed socket is soon somebody else's.
func (w *worker) conclude(f *flow, end func(socket int), how ending) {
	if f.stage == vacant {
		return
	}
	if c := f.carriage; c != nil {
		f.mirror()
		c.cancel()
		end = w.edge.sever
	}
	w.tellEnd(f, how)
	f.line = nil // it is told once
	w.tellTap(f, how)
	files := int64(filesOfFlow)
	if f.udp() {
		end, files = w.edge.close, filesOfTalk
	}
	hadPort := f.sockets[backend] >= 0 && !f.udp()
	for s, socket := range f.sockets {
		if socket >= 0 {
			f.sockets[s] = -1
			end(int(socket))
		}
	}
	if hadPort {
		w.relay.usedUp.ended(f.target.at)
	}
	for from := range f.rests {
		w.forget(&f.rests[from])
		if p := f.pipes[from]; p != nil {
			f.pipes[from] = nil
			w.pipes.give(p, w.edge)
		}
	}
	if f.stage == relaying && !f.udp() {
		w.tally(f).active.Add(^uint64(0))
	}
	w.activate(f, false)
	if f.stage != probing {
		f.choice.leave(f.gated())
	}
	if in := f.choice.inlet; in != nil {
		in.open.Add(-1)
	}
	if f.udp() {
		w.part(f)
	}
	w.wheel.clear(f.place)
	w.flows.release(f)
	w.relay.files.used.Add(-files)
}

// appoint has the flow looked at when its next time comes.
func (w *worker) appoint(f *flow) {
	if at := f.times.next(); at != 0 {
		w.wheel.set(f.place, at)
	} else {
		w.wheel.clear(f.place)
	}
}

// expire looks at those whose time has come.
func (w *worker) expire() {
	w.due = w.wheel.advance(w.now, w.due[:0])
	cut := 0
	for _, id := range w.due {
		if id == worksAlone {
			w.wake()
			continue
		}
		f := w.flows.at(id)
		if f.stage == vacant {
			continue // by a flow before it in this round
		}
		if w.draining && due(f.times.cut, w.now) {
			cut++
		}
		w.expired(f)
	}
	if cut > 0 {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("drain timeout is over: flows are cut off", "flows", cut)
		})
	}
}

// expired does what a time of the flow asks for.
func (w *worker) expired(f *flow) {
	defer w.guard(f)
	f.mirror()
	switch {
	case f.stage == probing && due(f.times.connect, w.now):
		w.expiredProbe(f)
		return
	case f.stage == awaiting && due(f.times.connect, w.now):
		w.unannounced(f, endLateHeader, errLateHeader)
		return
	case due(f.times.cut, w.now):
		w.stopped(f)
		return
	case f.udp():
		w.expiredTalk(f)
		return
	case due(f.times.words, w.now):
		f.times.words = 0
		w.pump(f)
		return
	case due(f.times.connect, w.now):
		w.overdue(f)
		return
	case due(f.times.first, w.now) && !f.heard:
		w.unheard(f)
		return
	case due(f.times.idle, w.now):
		quiet, patience := w.quiet(f), f.patience()
		if quiet >= patience {
			w.cutOff(f, endIdle, "no byte has moved")
			return
		}
		f.times.idle = w.now + ticks(max(patience-quiet, idleGrain))
	}
	if due(f.times.first, w.now) {
		f.times.first = 0
	}
	if due(f.times.lasting, w.now) {
		f.times.lasting = 0
		w.edge.lasting(int(f.sockets[backend]), f.choice.proxy.PeerTimeout)
	}
	w.appoint(f)
}

// unheard ends a flow whose backend has sent no first byte in time. That counts
// against a candidate which was asked something and has answered nobody since the
// flow began: or a few who ask nonsense, in whoever's name, could have all others
// kept from it.
func (w *worker) unheard(f *flow) {
	began := f.times.first - ticks(f.choice.proxy.FirstByteTimeout)
	if f.spoken && !f.target.circuit.spokeAfter(began) {
		w.missed(f)
	}
	w.cutOff(f, endSilent, "the backend sends no first byte")
}

// stopped cuts off a flow that the end of the relay leaves no more time.
func (w *worker) stopped(f *flow) {
	if f.stream.parting() {
		w.abort(f, w.broken(f))
		return
	}
	w.abort(f, endStopped)
}

// broken is how a flow ends of which a side is lost. Where somebody wants to know,
// the kernel is asked why if it has not told: of a side that had ended before, or
// that was not to be read any more.
func (w *worker) broken(f *flow) ending {
	for s, lost := range f.stream.lost {
		if lost && !f.stream.told[s] && (f.line != nil || f.tap != nil) {
			f.stream = f.stream.learn(side(s), outcome{gone: isGone(w.edge.fault(int(f.sockets[s])))})
		}
	}
	return f.stream.broken()
}

// quiet says how long no byte has moved on either side. The kernel knows it, so
// that what moves bytes need not keep it.
func (w *worker) quiet(f *flow) time.Duration {
	quiet := time.Duration(math.MaxInt64)
	for _, socket := range f.sockets {
		if one, ok := w.edge.quiet(int(socket)); ok {
			quiet = min(quiet, one)
		}
	}
	return quiet
}

// cutOff aborts a flow that took too long.
func (w *worker) cutOff(f *flow, how ending, why string) {
	split, name := f.choice.split, f.target.name
	w.abort(f, how)
	w.relay.say(func(log *slog.Logger) {
		log.Debug("flow is cut off by a timeout", "split", split, "backend", name, "why", why)
	})
}

// drain has the worker end with its last flow. Flows that are open get a time
// by which they are cut off: timeouts by split, their own choice's where that
// has none, zero for no limit. It returns how many flows have which timeout.
func (w *worker) drain(timeouts map[string]time.Duration) map[time.Duration]int {
	w.draining = true
	flows := map[time.Duration]int{}
	w.flows.each(func(f *flow) {
		timeout, ok := timeouts[f.choice.split]
		if !ok {
			timeout = f.choice.proxy.DrainTimeout
		}
		flows[timeout]++
		if at := w.now + ticks(timeout); timeout > 0 && (f.times.cut == 0 || f.times.cut > at) {
			f.times.cut = at
			w.appoint(f)
		}
		if f.udp() {
			w.hurry(f)
		}
	})
	return flows
}
