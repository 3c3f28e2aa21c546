package splitter

import (
	"log/slog"
	"slices"
	"syscall"
	"time"

	"github.com/splitd/splitd/traffic"
)

// choose decides where a client's new flow goes, and says to whom first, and why.
func (w *worker) choose(f *flow) (*target, reason) {
	c, client := f.choice, f.client.Addr()
	p, why := c.pick(client, w.relay.draw)
	at := c.address(p, client, w.relay.draw)
	if p == &c.primary {
		f.others = from(p, at)
		return w.open(f), why
	}
	f.primary = &c.primary.targets[c.address(&c.primary, client, w.relay.draw)]
	f.others = from(p, at)
	first := w.open(f)
	if first == nil {
		p.targets[at].counter.tallies[w.number].avoided.Add(1)
		return w.turnToPrimary(f), reason{why.why, traffic.ButAvoided, p.name}
	}
	return first, why
}

// turnToPrimary has a candidate's flow be the primary's, and says to which of its
// addresses it goes first.
func (w *worker) turnToPrimary(f *flow) *target {
	p := &f.choice.primary
	at := slices.IndexFunc(p.targets, func(t target) bool { return t.at == f.primary.at })
	f.primary, f.others = nil, from(p, at)
	return w.open(f)
}

// others are the addresses of a backend that a flow has not tried.
type others struct {
	of         *party
	next, left uint8
}

// from are all of the backend's, from one of them on.
func from(p *party, at int) others { return others{p, uint8(at), uint8(len(p.targets))} }

// open is the next of the others that takes flows; nil when none does.
func (w *worker) open(f *flow) *target {
	for o := &f.others; o.left > 0; {
		t := &o.of.targets[o.next]
		o.next, o.left = (o.next+1)%uint8(len(o.of.targets)), o.left-1
		away, probe := t.circuit.keepsAway(w.now, ticks(trialPatience(f.choice.proxy)))
		if probe {
			w.probe(f.choice, t)
		}
		if !away {
			return t
		}
	}
	return nil
}

// probe tries to connect a candidate that is left out: a flow without a client.
func (w *worker) probe(c *choice, t *target) {
	f := w.take(filesOfFlow)
	f.stage, f.choice, f.target = probing, c, t
	f.sockets = [2]int32{client: -1, backend: -1}
	defer w.guard(f)
	socket, events, errno := w.sound(c, t)
	if errno == 0 {
		f.sockets[backend] = int32(socket)
		errno = w.poller.add(socket, events, f.ticket(ofBackend))
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

// sound begins what a probe does, and says which news tell more: a connection, or
// an empty datagram, which is refused where no server is and asks nothing of one.
func (w *worker) sound(c *choice, t *target) (socket int, events uint32, errno syscall.Errno) {
	if c.transport != traffic.UDP {
		socket, errno = w.edge.connect(t.endpoint)
		return socket, connection, errno
	}
	socket, errno = w.edge.associate(t.endpoint)
	if errno != 0 {
		return socket, datagrams, errno
	}
	if errno = w.edge.say(socket, nil); errno != 0 {
		w.edge.close(socket)
	}
	return socket, datagrams, errno
}

// probed ends a probe.
func (w *worker) probed(f *flow, cause syscall.Errno) {
	switch {
	case cause == 0:
		w.found(f)
	case f.ours(cause):
		f.target.circuit.change(func(b breaker) breaker { return b.probeLacked(w.now) })
	default:
		f.target.circuit.change(func(b breaker) breaker { return b.probeFailed(w.now) })
	}
	w.finish(f)
}

// heardOfProbe is heard of a flow without a client.
func (w *worker) heardOfProbe(f *flow, n news) {
	switch {
	case n.reset:
		w.probed(f, w.edge.fault(int(f.sockets[backend])))
	case n.writable || n.readable:
		w.probed(f, 0)
	}
}

// expiredProbe is expired of a flow without a client.
func (w *worker) expiredProbe(f *flow) {
	if f.choice.transport == traffic.UDP {
		w.probed(f, 0) // nobody has refused it, and silence is all that many servers have for it
		return
	}
	w.probed(f, w.edge.attempt(int(f.sockets[backend])))
}

// found tells the circuit of the probe's target that it can be connected. Where a
// backend is given a time for its first byte, that alone does not make it serve.
func (w *worker) found(f *flow) {
	if f.choice.proxy.FirstByteTimeout > 0 {
		f.target.circuit.change(func(b breaker) breaker { return b.probeConnected(w.now) })
		return
	}
	if _, closed := f.target.circuit.change(breaker.probeServed); closed {
		w.tellBack(f)
	}
}

// trialPatience is how long a flow on trial may take: to be connected, to its
// first byte.
func trialPatience(p traffic.Proxy) time.Duration {
	return p.ConnectTimeout + p.FirstByteTimeout + time.Second
}

// served tells the circuit of the flow's target that it serves.
func (w *worker) served(f *flow) {
	if f.target.circuit.served() {
		w.tellBack(f)
	}
}

// tellBack logs that a circuit is closed.
func (w *worker) tellBack(f *flow) {
	split, name, address := f.choice.split, f.target.name, f.target.address
	w.relay.say(func(log *slog.Logger) {
		log.Info("candidate serves again and takes its share", "split", split, "backend", name, "address", address)
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
