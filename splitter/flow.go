package splitter

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// flow is one client connection and the backend connection that serves it. It
// has two goroutines: serve, which is also the pump to the backend, and the
// pump back.
type flow struct {
	relay  *Relay
	choice *choice
	ctx    context.Context // ends when the flow is cut off
	cancel context.CancelFunc

	ended atomic.Int32 // directions whose FIN has been passed on

	mu      sync.Mutex // guards what follows
	client  *side
	backend *side // nil until connected
	closed  bool
	idle    *time.Timer
}

// begin makes a flow of the connection, which it owns from now on.
func (r *Relay) begin(client *net.TCPConn, c *choice) {
	f := &flow{relay: r, choice: c, client: newSide(client)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	r.flowing.Add(1)
	r.flowsMu.Lock()
	r.flows[f] = struct{}{}
	r.flowsMu.Unlock()
	go f.serve()
}

// serve is the life of a flow.
func (f *flow) serve() {
	defer f.forget()
	defer f.abort() // whatever is still open, also after a panic
	defer f.guard()
	conn, target := f.connect()
	if conn == nil || !f.join(conn) {
		return
	}
	target.counter.flows.Add(1)
	target.counter.active.Add(1)
	defer target.counter.active.Add(^uint64(0))

	forth := &direction{flow: f, src: f.client, dst: f.backend, bytes: &target.counter.bytesIn}
	back := &direction{flow: f, src: f.backend, dst: f.client, bytes: &target.counter.bytesOut}
	var both sync.WaitGroup
	both.Add(2)
	go back.run(&both)
	forth.run(&both)
	both.Wait()
}

// forget takes the flow off the relay's list.
func (f *flow) forget() {
	f.relay.flowsMu.Lock()
	delete(f.relay.flows, f)
	f.relay.flowsMu.Unlock()
	f.relay.flowing.Done()
}

// join adds the backend's connection to the flow and starts the idle clock,
// unless the flow has been cut off meanwhile.
func (f *flow) join(conn *net.TCPConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backend = newSide(conn)
	if f.closed {
		f.backend.reset()
		return false
	}
	if timeout := f.choice.proxy.IdleTimeout; timeout > 0 {
		f.idle = time.AfterFunc(timeout, f.judgeIdle)
	}
	return true
}

// judgeIdle cuts the flow off when no byte has moved on either side for the
// idle timeout. It runs once per timeout at most: the kernel knows when the
// last byte came and went, so that the pumps touch no timer for it.
func (f *flow) judgeIdle() {
	timeout := f.choice.proxy.IdleTimeout
	quiet := min(f.client.quietFor(), f.backend.quietFor())
	if quiet >= timeout && f.ctx.Err() == nil {
		f.relay.log.Debug("idle flow is cut off", "split", f.choice.split, "idle_timeout", timeout)
		f.abort()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.idle.Reset(max(timeout-quiet, idleGrain))
	}
}

// abort cuts the flow off: both sides get an RST. It may be called at any time
// and often; after a close it does nothing.
func (f *flow) abort() { f.close((*side).reset) }

// finish closes both sides after all has been passed on.
func (f *flow) finish() { f.close((*side).close) }

func (f *flow) close(end func(*side)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	f.closed = true
	f.cancel()
	if f.idle != nil {
		f.idle.Stop()
	}
	end(f.client)
	if f.backend != nil {
		end(f.backend)
	}
}

// guard keeps a panic to the flow that it happened in. It is deferred by
// every goroutine of a flow.
func (f *flow) guard() {
	v := recover()
	if v == nil {
		return
	}
	f.relay.faults.panics.Add(1)
	f.abort()
	f.relay.log.Error("a flow panicked and is cut off", "split", f.choice.split, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}
