package splitter

import (
	"context"
	"slices"
	"time"
)

// Run waits for the end of ctx, then stops accepting, waits for the open flows
// up to the drain timeout of each split (zero: without limit), cuts off what is
// left and returns nil. When it returns no goroutine and no socket of the
// relay is left.
func (r *Relay) Run(ctx context.Context) error {
	<-ctx.Done()
	r.stop()
	r.drain()
	return nil
}

// stop closes all fronts and waits for their goroutines, after which no flow
// begins.
func (r *Relay) stop() {
	r.mu.Lock()
	r.stopped = true
	for _, f := range r.fronts {
		r.retire(f)
	}
	r.mu.Unlock()
	r.accepts.Wait()
}

// drain waits for the flows to end and helps those past their time.
func (r *Relay) drain() {
	for timeout, flows := range r.byDrainTimeout() {
		r.log.Info("draining", "flows", len(flows), "drain_timeout", timeout)
		if timeout == 0 {
			continue
		}
		deadline := time.AfterFunc(timeout, func() { r.cut(flows) })
		defer deadline.Stop()
	}
	r.flowing.Wait()
}

// cut ends the flows that are still open.
func (r *Relay) cut(flows []*flow) {
	r.flowsMu.Lock()
	flows = slices.DeleteFunc(flows, func(f *flow) bool { _, open := r.flows[f]; return !open })
	r.flowsMu.Unlock()
	if len(flows) == 0 {
		return
	}
	r.log.Warn("drain timeout is over: flows are cut off", "flows", len(flows))
	for _, f := range flows {
		f.abort()
	}
}

// byDrainTimeout sorts the open flows by how long they may go on: as their
// split says now, or as it said when they began if it has been removed.
func (r *Relay) byDrainTimeout() map[time.Duration][]*flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flowsMu.Lock()
	defer r.flowsMu.Unlock()
	sorted := map[time.Duration][]*flow{}
	for f := range r.flows {
		timeout := f.choice.proxy.DrainTimeout
		if split, ok := r.splits[f.choice.split]; ok {
			timeout = split.Proxy.DrainTimeout
		}
		sorted[timeout] = append(sorted[timeout], f)
	}
	return sorted
}
