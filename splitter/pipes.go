package splitter

const (
	// pipeRoom is how much a splice can move at once.
	pipeRoom = 1 << 20
	// pipesOfAll bounds the pipes of all workers together: as many as the kernel
	// lets an ordinary user have of that size (fs.pipe-user-pages-soft, pipe(7)).
	pipesOfAll = 64
	// sparesMost bounds the memory that a worker keeps for rests.
	sparesMost = 16
)

// pipe is where bytes stand between two splices.
type pipe struct {
	read, write int
	held        int // bytes in it
}

// pipes are a worker's: those that wait and the number of all.
type pipes struct {
	most, open int
	free       []*pipe
}

// pipesFor is how many one of so many workers may have: of very many, some have none
// and copy.
func pipesFor(number, workers int) int {
	most := pipesOfAll / workers
	if number < pipesOfAll%workers {
		most++
	}
	return most
}

// take returns an empty pipe, nil when there is none to be had.
func (p *pipes) take(e edge) *pipe {
	if n := len(p.free); n > 0 {
		taken := p.free[n-1]
		p.free = p.free[:n-1]
		return taken
	}
	if p.open >= p.most {
		return nil
	}
	made, ok := e.pipe(pipeRoom)
	if !ok {
		return nil
	}
	p.open++
	return made
}

// give takes a pipe back; with bytes in it it is of no use any more.
func (p *pipes) give(back *pipe, e edge) {
	if back.held == 0 {
		p.free = append(p.free, back)
		return
	}
	e.close(back.read)
	e.close(back.write)
	p.open--
}

// close closes the pipes that wait.
func (p *pipes) close(e edge) {
	for _, free := range p.free {
		e.close(free.read)
		e.close(free.write)
	}
	p.open -= len(p.free)
	p.free = nil
}

// draw fills a pipe from the source.
func (w *worker) draw(f *flow, from side, source int) outcome {
	p := f.pipes[from]
	if p == nil {
		p = w.pipes.take(w.edge)
		f.pipes[from] = p
	}
	if p == nil {
		w.relay.faults.splices.Add(1)
		return outcome{kind: unable}
	}
	o := w.edge.draw(source, p.write, pipeRoom)
	p.held += o.n
	if o.kind == unable {
		w.relay.faults.splices.Add(1)
		w.unpipe(f, from)
	}
	return o
}

// pour empties a pipe into the sink. Where that cannot be, what is in it is taken out,
// and copied like all that follows.
func (w *worker) pour(f *flow, from side, sink int) outcome {
	p := f.pipes[from]
	o := w.edge.pour(p.read, sink, p.held)
	if o.kind == unable {
		w.relay.faults.splices.Add(1)
		return w.scoop(f, from)
	}
	p.held -= o.n
	w.count(f, from, o)
	return o
}

// scoop makes a rest of what is in the way's pipe.
func (w *worker) scoop(f *flow, from side) outcome {
	p, bytes := f.pipes[from], make([]byte, f.pipes[from].held)
	for got := 0; got < len(bytes); {
		o := w.edge.scoop(p.read, bytes[got:])
		if o.kind != moved {
			return outcome{kind: failed}
		}
		got += o.n
	}
	f.rests[from].bytes = bytes
	w.kept += cap(bytes)
	p.held = 0
	w.unpipe(f, from)
	return outcome{kind: unable}
}

// unpipe has the way give its pipe back.
func (w *worker) unpipe(f *flow, from side) {
	w.pipes.give(f.pipes[from], w.edge)
	f.pipes[from] = nil
}

// room is how much is read at once. What the sink does not take of it is kept, in
// memory that the kernel does not bound for all flows together as it does its own: so
// the more is kept, the less is read. At the least it is in what a flow is reckoned to
// take (memoryOfFlow).
func (w *worker) room() int {
	switch {
	case !w.keepsMuch():
		return bufferSize
	case w.kept < w.keptMost:
		return bufferScarce
	}
	return bufferLeast
}

// keepsMuch says whether memory for rests is to be spared.
func (w *worker) keepsMuch() bool { return w.kept >= w.keptMost/2 }

// keep makes a rest of bytes.
func (w *worker) keep(r *rest, bytes []byte) {
	r.bytes = append(w.spare(len(bytes)), bytes...)
	w.kept += cap(r.bytes)
}

// spare is memory for so many bytes, nil where there is none that has room for them, or
// where much is kept: a rest may be much smaller than a spare.
func (w *worker) spare(room int) []byte {
	n := len(w.spares)
	if n == 0 {
		return nil
	}
	spare := w.spares[n-1]
	w.spares = w.spares[:n-1]
	if cap(spare) < room || w.keepsMuch() {
		return nil
	}
	return spare
}

// forget ends a rest and keeps its memory, within bounds.
func (w *worker) forget(r *rest) {
	w.kept -= cap(r.bytes)
	if r.bytes != nil && len(w.spares) < sparesMost && cap(r.bytes) <= bufferSize {
		w.spares = append(w.spares, r.bytes[:0])
	}
	*r = rest{}
}
