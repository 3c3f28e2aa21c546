package splitter

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// begin starts the workers unless they run. r.mu is held.
func (r *Relay) begin() error {
	if len(r.workers) > 0 {
		return nil
	}
	if err := r.files.measure(); err != nil {
		return err
	}
	memory := memoryLimit("/")
	r.files.bound(flowsIn(memory))
	r.keptMost = keptIn(memory, r.wanted)
	if r.crowd.most == 0 {
		r.crowd.most = crowdFor(r.files.most, localPorts())
	}
	var workers []*worker
	for i := range r.wanted {
		w, err := newWorker(r, i, r.edge())
		if err != nil {
			for _, w := range workers {
				w.end()
			}
			return err
		}
		workers = append(workers, w)
	}
	r.workers = workers
	r.files.own.Add(int64(filesOfWorker * len(workers)))
	leaveRoom(len(workers))
	for _, w := range workers {
		r.workings.Go(w.run)
	}
	r.writing.Go(r.write)
	return nil
}

// leaveRoom lets Go run more threads than workers at once, by one. A worker's
// thread is in the kernel for most of its time: where all that may run are, the
// runtime looks 20,000 times a second whether they still are, takes away from
// each what it needs to go on, and gives it back (retake in runtime/proc.go).
func leaveRoom(workers int) {
	if runtime.GOMAXPROCS(0) <= workers {
		runtime.GOMAXPROCS(workers + 1)
	}
}

// Run waits for the end of ctx, then stops accepting, waits for the open flows
// up to the drain timeout of each split (zero: without limit), cuts off what is
// left and returns nil. When it returns no goroutine and no socket of the
// relay is left. An error is the kernel's and means that a part of the flows is
// not served any more; Run returns it as soon as the rest has drained.
func (r *Relay) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-r.broken.Done():
	}
	r.stop()
	err := r.workings.Wait()
	r.lingerings.Wait()
	r.carriages.Wait()
	for _, w := range r.workers {
		closeAll(w.abandoned)
	}
	close(r.sayings)
	r.writing.Wait()
	return err
}

// stop closes all fronts, those of UDP for new flows, after which no flow begins, and
// sets the time of those that are open.
func (r *Relay) stop() {
	end := r.change()
	r.overflowed = r.overflow()
	r.stopped = true
	r.retireAll(func(spot) bool { return false })
	for _, name := range slices.Collect(maps.Keys(r.inlets)) {
		r.dropInlet(name)
	}
	end()
	r.leaving.Wait()
	for timeout, n := range r.drain() {
		r.log.Info("draining", "flows", n, "drain_timeout", timeout)
	}
	if r.hurried.Err() != nil {
		r.cut() // those who came in while Cut did it
	}
}

// Cut cuts off all open flows, with an RST on both sides, and returns how many
// there were. It is for while Run ends, which then does so at once. It may be
// called from many goroutines and waits for the workers alone.
func (r *Relay) Cut() int {
	r.hurry()
	return r.cut()
}

func (r *Relay) cut() int {
	r.mu.Lock()
	workers := r.workers
	r.mu.Unlock()
	var cut atomic.Int64
	each(workers, func(w *worker, done func()) {
		w.walk(func(f *flow) {
			if f.stage != probing {
				cut.Add(1)
			}
			w.stopped(f)
		}, done)
	})
	return int(cut.Load())
}

// drain has the workers end with their flows, and returns how many have which
// drain timeout.
func (r *Relay) drain() map[time.Duration]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	timeouts := make(map[string]time.Duration, len(r.splits))
	for name, split := range r.splits {
		timeouts[name] = split.Proxy.DrainTimeout
	}
	var mu sync.Mutex
	var drained sync.WaitGroup
	flows := map[time.Duration]int{}
	for _, w := range r.workers {
		drained.Add(1)
		w.post(func() {
			defer drained.Done()
			mu.Lock()
			defer mu.Unlock()
			for timeout, n := range w.drain(timeouts) {
				flows[timeout] += n
			}
		})
	}
	drained.Wait()
	return flows
}
