package splitter

import (
	"log/slog"
	"syscall"

	"golang.org/x/sys/unix"
)

// choose is the target of a new flow: the one that is drawn, or the primary
// where that cannot be connected anyway.
func (w *worker) choose(c *choice) *target {
	drawn := c.pick(w.relay.draw())
	away, probe := drawn.circuit.keepsAway(w.now)
	if probe {
		w.probe(c, drawn)
	}
	if !away {
		return drawn
	}
	drawn.counter.tallies[w.number].avoided.Add(1)
	return &c.primary
}

// probe tries to connect a candidate that is left out: a flow without a client.
func (w *worker) probe(c *choice, t *target) {
	f := w.take()
	f.stage, f.choice, f.target = probing, c, t
	f.sockets = [2]int32{client: -1, backend: -1}
	defer w.guard(f)
	socket, errno := w.edge.connect(t.endpoint)
	if errno == 0 {
		f.sockets[backend] = int32(socket)
		errno = w.poller.add(socket, connection, f.ticket(ofBackend))
	}
	if errno != 0 {
		w.probed(f, errno)
		return
	}
	patience := c.proxy.ConnectTimeout
	if patience <= 0 {
		patience = probePatience
	}
	f.times.connect = w.now + ticks(patience)
	w.appoint(f)
}

// probed ends a probe.
func (w *worker) probed(f *flow, cause syscall.Errno) {
	switch {
	case cause == 0:
		w.found(f)
	case !isShortage(cause):
		f.target.circuit.change(func(b breaker) breaker { return b.probeFailed(w.now) })
	}
	w.finish(f)
}

// heardOfProbe is heard of a flow without a client.
func (w *worker) heardOfProbe(f *flow, n news) {
	switch {
	case n.reset:
		w.probed(f, w.edge.fault(int(f.sockets[backend])))
	case n.writable:
		w.probed(f, 0)
	}
}

// expiredProbe is expired of a flow without a client.
func (w *worker) expiredProbe(f *flow) { w.probed(f, unix.ETIMEDOUT) }

// found tells the circuit of the probe's target that it can be connected.
func (w *worker) found(f *flow) {
	if _, closed := f.target.circuit.change(breaker.probeServed); !closed {
		return
	}
	split, name, address := f.choice.split, f.target.name, f.target.address
	w.relay.say(func(log *slog.Logger) {
		log.Info("candidate can be connected again and takes its share", "split", split, "backend", name, "address", address)
	})
}

// missed tells the circuit of the flow's target that it does not serve.
func (w *worker) missed(f *flow) {
	if !f.target.circuit.failed(w.now) {
		return
	}
	split, name, address := f.choice.split, f.target.name, f.target.address
	w.relay.say(func(log *slog.Logger) {
		log.Warn("candidate does not serve: the primary takes its share, and it is tried again now and then",
			"split", split, "backend", name, "address", address, "failures", circuitFailures)
	})
}
