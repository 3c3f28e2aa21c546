package splitter

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/splitd/splitd/traffic"
)

// An OpenFlow is a flow that goes on, or went on when it was listed.
type OpenFlow struct {
	traffic.BackendKey
	worker *worker
	ticket ticket
}

const (
	// blocksAtOnce bounds how long a worker's flows wait for one who looks at
	// all of them, endsAtOnce how long they wait while others are ended: an end
	// is two sockets closed, and two resets sent.
	blocksAtOnce = 1
	endsAtOnce   = 8
)

// OpenFlows lists the flows that a backend serves, in no order: those of all its
// addresses, of all services of the split and of all earlier definitions of it.
// Flows that are still being connected are not among them: see Free. It may be
// called from many goroutines and waits for the workers alone.
func (r *Relay) OpenFlows(key traffic.BackendKey) []OpenFlow {
	c, workers := r.openAt(key)
	var mu sync.Mutex
	var open []OpenFlow
	each(workers, func(w *worker, done func()) {
		var mine []OpenFlow
		w.walk(func(f *flow) {
			if f.stage == relaying && f.target.counter == c {
				mine = append(mine, OpenFlow{BackendKey: key, worker: w, ticket: f.ticket(ofClient)})
			}
		}, func() {
			mu.Lock()
			open = append(open, mine...)
			mu.Unlock()
			done()
		})
	})
	return open
}

// End cuts flows off, both sides with an RST, and returns how many had not ended
// by themselves. It may be called from many goroutines and waits for the
// workers alone.
func (r *Relay) End(flows []OpenFlow) int {
	byWorker := map[*worker][]ticket{}
	var workers []*worker
	for _, f := range flows {
		if byWorker[f.worker] == nil {
			workers = append(workers, f.worker)
		}
		byWorker[f.worker] = append(byWorker[f.worker], f.ticket)
	}
	var ended atomic.Int64
	each(workers, func(w *worker, done func()) {
		w.endAll(byWorker[w], func(n int) {
			ended.Add(int64(n))
			done()
		})
	})
	return int(ended.Load())
}

// Free has attempts to connect a candidate given up, or only those to some
// addresses of it, which are down: their clients are served by the primary,
// whatever proxy.fallback says, because it is not the attempt that failed. It
// returns how many there were. Flows of UDP are freed too (freeTalk). Called after the candidate has lost its weight,
// or those addresses, none is left when it returns. It may be called from many
// goroutines and waits for the workers alone.
func (r *Relay) Free(key traffic.BackendKey, addresses ...netip.Addr) int {
	c, workers := r.openAt(key)
	but := traffic.ButClosed
	if len(addresses) > 0 {
		but = traffic.ButDown
	}
	var freed atomic.Int64
	each(workers, func(w *worker, done func()) {
		w.walk(func(f *flow) {
			if f.target == nil || f.target.counter != c || len(addresses) > 0 && !slices.Contains(addresses, f.target.at.Addr()) {
				return
			}
			switch {
			case f.udp() && w.freeTalk(f, len(addresses) > 0):
				freed.Add(1)
			case !f.udp() && f.stage == connecting && f.primary != nil:
				freed.Add(1)
				w.takeBack(f, but)
			}
		}, done)
	})
	return int(freed.Load())
}

// openAt is what tells the flows of a backend, and who may have some: nobody
// where it has never had any.
func (r *Relay) openAt(key traffic.BackendKey) (*counter, []*worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, known := r.counters[key]
	if !known {
		return nil, nil
	}
	return c, r.workers
}

// each has the workers do something, and waits until all have called done.
func each(workers []*worker, order func(w *worker, done func())) {
	var all sync.WaitGroup
	all.Add(len(workers))
	for _, w := range workers {
		w.post(func() { order(w, all.Done) })
	}
	all.Wait()
}

// walk calls visit with every open flow, which it may end, and then done: some
// at a time, so that others are served meanwhile. Flows that begin meanwhile
// may be missed.
func (w *worker) walk(visit func(*flow), done func()) { w.walkFrom(0, visit, done) }

func (w *worker) walkFrom(block int, visit func(*flow), done func()) {
	last := min(block+blocksAtOnce, len(w.flows.blocks))
	w.flows.eachOf(block, last, func(f *flow) { w.visit(f, visit) })
	if last >= len(w.flows.blocks) {
		done()
		return
	}
	w.soon(func() { w.walkFrom(last, visit, done) })
}

// endAll cuts off flows that are still open, some at a time, and tells how many
// they were.
func (w *worker) endAll(tickets []ticket, done func(ended int)) {
	w.endFrom(tickets, 0, done)
}

func (w *worker) endFrom(tickets []ticket, ended int, done func(ended int)) {
	now := min(len(tickets), endsAtOnce)
	for _, t := range tickets[:now] {
		if f := w.flows.find(t); f != nil {
			w.visit(f, func(f *flow) { w.abort(f, endKilled) })
			ended++
		}
	}
	if now == len(tickets) {
		done(ended)
		return
	}
	w.soon(func() { w.endFrom(tickets[now:], ended, done) })
}

// visit does something with a flow; a panic is that flow's.
func (w *worker) visit(f *flow, do func(*flow)) {
	defer w.guard(f)
	do(f)
}

// takeBack gives an attempt up, and has the primary serve its client.
func (w *worker) takeBack(f *flow, but traffic.But) {
	if f.sockets[backend] >= 0 {
		w.edge.close(int(f.sockets[backend]))
		f.sockets[backend] = -1
	}
	w.tryPrimary(f, but)
}
