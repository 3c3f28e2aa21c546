package splitter

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/traffic"
)

// teeCounts are those of a split.
type teeCounts struct{ sampled, declined, tapped, refused, panicked atomic.Uint64 }

func (t *teeCounts) read() TeeCounts {
	return TeeCounts{
		Sampled: t.sampled.Load(), Declined: t.declined.Load(), Tapped: t.tapped.Load(),
		Refused: t.refused.Load(), Panicked: t.panicked.Load(),
	}
}

// TeeCounts returns the numbers of tees of the splits served now, by split. It
// may be called from many goroutines.
func (r *Relay) TeeCounts() map[string]TeeCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[string]TeeCounts, len(r.splits))
	read := func(name string) {
		if g := r.gates[name]; g != nil {
			counts[name] = g.tees.read()
		}
	}
	for name := range r.splits {
		read(name)
	}
	for name := range r.inlets {
		read(name)
	}
	return counts
}

// samples says whether a client's new flow, which why led to the primary, is one
// of the sample: a share of those that the draw left to the primary, and of no
// others, as in the rules of the kernel plane. With affinity a client network is
// sampled or not, and a raised sample only adds. Draw is asked for a number where
// each flow draws anew.
func (c *choice) samples(client netip.Addr, why reason, draw func() traffic.Weight) bool {
	switch {
	case c.sample == 0 || why.but != "" || why.why == traffic.WhyBackend:
		return false
	case c.affine:
		return c.sampleLots.Number(client) < c.sample
	}
	return c.sample == traffic.Whole || draw() < c.sample
}

// sample notes that the tee is to be told of a flow of the primary, if it is.
func (w *worker) sample(f *flow, why reason) {
	if w.relay.tee == nil || f.primary != nil || !f.choice.samples(f.client.Addr(), why, w.relay.draw) {
		return
	}
	f.sampled = true
	f.choice.gate.tees.sampled.Add(1)
}

// tap tells the tee of a sampled flow that begins. What is tapped has to be read,
// so it is not spliced.
func (w *worker) tap(f *flow) {
	if !f.sampled {
		return
	}
	counts := &f.choice.gate.tees
	answered := w.fenced(f, func() { f.tap = w.relay.tee.Open(f.opened(time.Now(), w.number)) })
	switch {
	case f.tap != nil:
		counts.tapped.Add(1)
		f.stream = f.stream.copied(true)
	case answered:
		counts.declined.Add(1)
	}
}

func (f *flow) opened(now time.Time, worker int) Opened {
	return Opened{
		BackendKey: traffic.BackendKey{Split: f.choice.split, Backend: f.target.name}, Generation: f.choice.generation,
		Client: f.client, Service: f.service(), Server: f.target.at, At: now, Worker: worker,
	}
}

// offer gives the tap what a sink has taken.
func (w *worker) offer(f *flow, c Chunk) {
	c.At = time.Now()
	taken := true
	w.fenced(f, func() { taken = f.tap.Take(c) })
	if !taken {
		f.choice.gate.tees.refused.Add(1)
		w.untap(f)
	}
}

// offerBytes offers bytes, offerFIN the end of a side, where there is a tap.
func (w *worker) offerBytes(f *flow, from side, bytes []byte) {
	if f.tap != nil && len(bytes) > 0 {
		w.offer(f, Chunk{FromClient: from == client, Bytes: bytes})
	}
}

func (w *worker) offerFIN(f *flow, from side) {
	if f.tap != nil {
		w.offer(f, Chunk{FromClient: from == client, FIN: true})
	}
}

// untap ends the tee of a flow that goes on.
func (w *worker) untap(f *flow) {
	f.tap = nil
	f.stream = f.stream.copied(f.choice.proxy.NoSplice)
}

// tellTap tells the tap how its flow ends. The second FIN is passed on by the
// close of both sides, so it has not been taken yet.
func (w *worker) tellTap(f *flow, how ending) {
	for from := range f.stream.ways {
		if how == endWhole && !f.stream.ways[from].shut {
			w.offerFIN(f, side(from))
		}
	}
	if f.tap == nil {
		return
	}
	whose, tap := w.whose(f, how), f.tap
	f.tap = nil // it is told once
	w.fenced(f, func() {
		tap.End(Ended{End: how.String(), By: how.by(whose), Code: codeOf(how, f.stage, f.stream, whose), At: time.Now()})
	})
}

// fenced calls the tee for a flow, and says whether it has returned. A panic in it
// costs the tee alone.
func (w *worker) fenced(f *flow, call func()) (returned bool) {
	returned = w.fence("a tee", f.choice.split, call)
	if !returned {
		w.untap(f)
		f.choice.gate.tees.panicked.Add(1)
	}
	return returned
}

// fence calls what is not ours for a flow of a split, and says whether it has
// returned: else it panicked.
func (w *worker) fence(whom, split string, call func()) (returned bool) {
	defer func() {
		if v := recover(); v != nil {
			w.relay.tellPanic(whom, split, v, func(log *slog.Logger) {
				log.Error("who is told of flows panicked and is told of this one no more")
			})
		}
	}()
	call()
	return true
}

// tellPanic has what is not ours logged where its panic was recovered, by tell.
func (r *Relay) tellPanic(whom, split string, v any, tell func(*slog.Logger)) {
	stack := string(debug.Stack())
	if left, ok := r.quiet.allow(whom+" of "+split, time.Now()); ok {
		r.say(func(log *slog.Logger) {
			tell(log.With("who", whom, "split", split, "panic", fmt.Sprint(v), "stack", stack, "left_out", left))
		})
	}
}
