package splitter

import (
	"sync/atomic"

	"github.com/splitd/splitd/traffic"
)

// counter counts for one backend. It outlives the definitions of its split,
// so that its numbers only grow.
type counter struct {
	flows, failed     atomic.Uint64
	active            atomic.Uint64
	bytesIn, bytesOut atomic.Uint64
}

func (c *counter) read() traffic.Counts {
	active, in, out, failed := c.active.Load(), c.bytesIn.Load(), c.bytesOut.Load(), c.failed.Load()
	return traffic.Counts{Flows: c.flows.Load(), Active: &active, BytesIn: &in, BytesOut: &out, ConnectFailed: &failed}
}

// Faults counts what went wrong on this host and is no backend's fault.
type Faults struct {
	// Accepts is the number of accept errors (no file descriptors, no memory).
	Accepts uint64
	// Dials is the number of attempts to reach a backend that failed for lack
	// of local ports, file descriptors or memory; they are in no ConnectFailed.
	Dials uint64
	// Panics is the number of flows that a panic cut off.
	Panics uint64
}

type faults struct{ accepts, dials, panics atomic.Uint64 }

// Counts returns the counters of all backends of the splits served now, and of
// removed ones that still have open flows. Bytes of open flows are at most
// half a second behind, and a slow receiver's by one chunk on its way (16 KiB
// to 1 MiB, sized to pass in a quarter of a second). It may be called from
// many goroutines and waits for no network.
func (r *Relay) Counts() map[traffic.BackendKey]traffic.Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[traffic.BackendKey]traffic.Counts, len(r.counters))
	for key, c := range r.counters {
		if r.serves(key) || c.active.Load() > 0 {
			counts[key] = c.read()
		}
	}
	return counts
}

// Faults returns what went wrong on this host since New. It may be called
// from many goroutines.
func (r *Relay) Faults() Faults {
	return Faults{Accepts: r.faults.accepts.Load(), Dials: r.faults.dials.Load(), Panics: r.faults.panics.Load()}
}

// serves says whether the backend is one of a split served now; r.mu is held.
func (r *Relay) serves(key traffic.BackendKey) bool {
	split, ok := r.splits[key.Split]
	if !ok {
		return false
	}
	_, candidate := split.Candidate(key.Backend)
	return candidate || split.Primary.Name == key.Backend
}

// counterOf returns the counter of the backend, a new one at first; r.mu is
// held.
func (r *Relay) counterOf(key traffic.BackendKey) *counter {
	c, ok := r.counters[key]
	if !ok {
		c = &counter{}
		r.counters[key] = c
	}
	return c
}
