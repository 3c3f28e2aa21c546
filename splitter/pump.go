package splitter

// pump does what the flow can do now: to its end, to the point where it has to
// wait for news, or until others want to be served as well.
func (w *worker) pump(f *flow) {
	for acts, bytes := 0, 0; ; acts++ {
		from, a := f.stream.next()
		switch a { //nolint:exhaustive // the rest are done below
		case actNone:
			w.settle(f)
			return
		case actFinish:
			w.finish(f)
			return
		case actAbort:
			if !w.speaking(f) {
				w.abort(f, w.broken(f))
			}
			return
		case actRecv, actDraw:
			if acts >= actsAtOnce || bytes >= bytesAtOnce {
				w.later(f)
				return
			}
		}
		o := w.perform(f, from, a) // which may end a tee, and so change the stream
		if a == actRecv || a == actDraw {
			bytes += o.n
		}
		f.stream = f.stream.after(from, a, o)
	}
}

// perform asks the kernel.
func (w *worker) perform(f *flow, from side, a act) outcome {
	source, sink := int(f.sockets[from]), int(f.sockets[from.other()])
	switch a {
	case actRecv:
		o := w.edge.recv(source, w.buffer[:w.room()])
		w.fresh = w.buffer[:o.n]
		return o
	case actSend:
		return w.send(f, from, sink)
	case actDraw:
		return w.draw(f, from, source)
	case actPour:
		return w.pour(f, from, sink)
	case actShut:
		return w.shut(f, from, sink)
	case actNone, actFinish, actAbort:
	}
	panic("no act of the kernel's")
}

// send gives the sink what the way holds: what was read last, or what was left
// over when it was read.
func (w *worker) send(f *flow, from side, sink int) outcome {
	rest := &f.rests[from]
	bytes := w.fresh
	if rest.bytes != nil {
		bytes = rest.bytes[rest.gone:]
	}
	introduces := from == client && f.preamble > 0
	if from == client && !introduces {
		w.hasten(f, sink)
	}
	o := w.edge.send(sink, bytes)
	if introduces {
		f.preamble -= uint8(o.n) // they are nobody's bytes: not counted, nor offered
	} else {
		w.count(f, from, o)
		w.offerBytes(f, from, bytes[:o.n])
	}
	switch {
	case o.kind == failed || o.n == len(bytes):
		w.forget(rest)
	case rest.bytes != nil:
		rest.gone += o.n
	default:
		w.keep(rest, bytes[o.n:])
	}
	return o
}

// shut passes a FIN on.
func (w *worker) shut(f *flow, from side, sink int) outcome {
	o := w.edge.shut(sink)
	if o.kind == moved {
		w.offerFIN(f, from)
	}
	return o
}

// hasten has a backend's small writes sent at once from the second on: the
// first is never held back (Nagle's algorithm, RFC 9293, section 3.7.4), and
// many flows have no other. A PROXY header is a first one too, though not the
// client's.
func (w *worker) hasten(f *flow, sink int) {
	second := f.spoken || f.choice.proxy.SendProxy != ""
	f.spoken = true
	if second && !f.prompt {
		f.prompt = true
		w.edge.prompt(sink)
	}
}

// count adds bytes that have reached their sink.
func (w *worker) count(f *flow, from side, o outcome) {
	if f.line != nil {
		f.line.bytes[from] += uint64(o.n)
	}
	switch {
	case o.n == 0:
	case from == client:
		w.tally(f).bytesIn.Add(uint64(o.n))
	default:
		if !f.heard {
			f.heard = true
			f.target.circuit.spoke(w.now)
			w.served(f)
		}
		w.tally(f).bytesOut.Add(uint64(o.n))
	}
}

// settle leaves a flow that has to wait with nothing but what it holds.
func (w *worker) settle(f *flow) {
	for from := range f.pipes {
		if p := f.pipes[from]; p != nil && p.held == 0 {
			w.unpipe(f, side(from))
		}
	}
	if timeout := f.choice.proxy.HalfClosedTimeout; timeout > 0 && !f.halved && f.stream.halfClosed() {
		f.halved = true
		if at := w.now + ticks(timeout); f.times.idle == 0 || at < f.times.idle {
			f.times.idle = at
			w.appoint(f)
		}
	}
	if f.stream.parting() && f.times.cut == 0 {
		f.times.cut = w.now + ticks(lastWords)
		w.appoint(f)
	}
}

// speaking says that a side is yet to get what the other sent before its reset:
// the relay's own RST would throw away what the kernel has not sent (SO_LINGER in
// socket(7)). It is asked again soon, and lastWords bound it.
func (w *worker) speaking(f *flow) bool {
	for gone := range f.stream.lost {
		to := side(gone).other()
		if !f.stream.lost[gone] || f.stream.lost[to] || w.edge.unsent(int(f.sockets[to])) == 0 {
			continue
		}
		w.settle(f) // which sets the bound
		f.times.words = w.now + ticks(wordsGrain)
		w.appoint(f)
		return true
	}
	return false
}

// later lets others be served before the flow goes on.
func (w *worker) later(f *flow) {
	if !f.paused {
		f.paused = true
		w.paused = append(w.paused, f.ticket(ofClient))
	}
}
