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
// Flows of TCP that are still being connected are not among them: see Free. It may be
// called from many goroutines and waits for the workers alone.
func (r *Relay) OpenFlows(key traffic.BackendKey) []OpenFlow {
	c, workers := r.openAt(key)
	var mu sync.Mutex
	var open []OpenFlow
	each(workers, func(w *worker, done func()) {
		var mine []OpenFlow
		w.walk(func(f *flow) {
			if f.open() && f.target.counter == c {
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

// Free has attempts to connect candidates given up, or only those to some
// addresses of one, where they are named, which are down: their clients are served
// by the primary, whatever proxy.fallback says, because it is not the attempt that
// failed. It returns how many there were. Flows of UDP are freed too (freeTalk).
// Called after the candidates have lost their weight, or those addresses, none is
// left when it returns. It may be called from many goroutines and waits for the
// workers alone.
func (r *Relay) Free(from map[traffic.BackendKey][]netip.Addr) int {
	asked, workers := r.anyAt(from)
	var freed atomic.Int64
	each(workers, func(w *worker, done func()) {
		w.walk(func(f *flow) {
			if but, meant := asked.of(f); meant && w.free(f, but) {
				freed.Add(1)
			}
		}, done)
	})
	return int(freed.Load())
}

// open says whether the flow is its target's. One of UDP is from its first datagram
// on.
func (f *flow) open() bool {
	return f.stage == relaying || f.udp() && f.talk.active
}

// giveUps are the attempts to be given up: those to backends, told by their
// counter, of all addresses (nil) or only some.
type giveUps map[*counter][]netip.Addr

// of says whether a flow is meant, and why it does not stay.
func (g giveUps) of(f *flow) (but traffic.But, meant bool) {
	if f.target == nil {
		return "", false
	}
	addresses, asked := g[f.target.counter]
	if len(addresses) == 0 {
		return traffic.ButClosed, asked
	}
	return traffic.ButDown, slices.Contains(addresses, f.target.at.Addr())
}

// free gives a flow up if it is an attempt yet.
func (w *worker) free(f *flow, but traffic.But) bool {
	if f.udp() {
		return w.freeTalk(f, but == traffic.ButDown)
	}
	attempt := f.stage == connecting && f.primary != nil
	if attempt {
		w.takeBack(f, but)
	}
	return attempt
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

// anyAt is openAt for several, with what is said of each.
func (r *Relay) anyAt(keys map[traffic.BackendKey][]netip.Addr) (giveUps, []*worker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := giveUps{}
	for key, addresses := range keys {
		if c, known := r.counters[key]; known {
			asked[c] = addresses
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	return asked, r.workers
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
	w.flows.eachOf(min(block, last), last, func(f *flow) { w.visit(f, visit) })
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
	w.activate(f, false)
	if f.sockets[backend] >= 0 {
		w.edge.close(int(f.sockets[backend]))
		f.sockets[backend] = -1
	}
	w.tryPrimary(f, but)
}
