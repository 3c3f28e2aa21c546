package splitter

import (
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/traffic"
)

// counter counts for one backend. It outlives the definitions of its split,
// so that its numbers only grow, but for those that were left long ago (forget.go).
type counter struct {
	left
	tallies []tally // by worker
}

// tally is what one worker counts: alone, in cache lines of its own.
type tally struct {
	flows, failed     atomic.Uint64
	active, avoided   atomic.Uint64
	bytesIn, bytesOut atomic.Uint64
	_                 [128 - 6*8]byte
}

// sum adds what one of the tallies' numbers is in all of them.
func (c *counter) sum(of func(*tally) *atomic.Uint64) uint64 {
	var sum uint64
	for i := range c.tallies {
		sum += of(&c.tallies[i]).Load()
	}
	return sum
}

func (c *counter) active() uint64 {
	return c.sum(func(t *tally) *atomic.Uint64 { return &t.active })
}

func (c *counter) idle() bool { return c.active() == 0 }

func (c *counter) read() traffic.Counts {
	return traffic.Counts{
		Flows:         c.sum(func(t *tally) *atomic.Uint64 { return &t.flows }),
		Active:        new(c.active()),
		BytesIn:       new(c.sum(func(t *tally) *atomic.Uint64 { return &t.bytesIn })),
		BytesOut:      new(c.sum(func(t *tally) *atomic.Uint64 { return &t.bytesOut })),
		ConnectFailed: new(c.sum(func(t *tally) *atomic.Uint64 { return &t.failed })),
		Avoided:       new(c.sum(func(t *tally) *atomic.Uint64 { return &t.avoided })),
	}
}

// Faults counts what went wrong on this host and is no backend's fault.
type Faults struct {
	// Accepts is the number of accept errors (no file descriptors, no memory).
	Accepts uint64
	// Dials is the number of attempts to reach a backend that failed for lack
	// of local ports, file descriptors or memory, because this host forbids it, or has
	// no route for datagrams; they are in no ConnectFailed.
	Dials uint64
	// Splices is the number of times that bytes were copied for lack of a pipe, or
	// because splice(2) failed.
	Splices uint64
	// Datagrams is the number of those that were dropped here: a socket had no room
	// for them, or they cannot be relayed.
	Datagrams uint64
	// Panics is the number of flows that a panic cut off, or that the flow log is
	// told of no more because it panicked.
	Panics uint64
	// Unsaid is the number of log messages that were left out because the log
	// did not take them in time.
	Unsaid uint64
}

type faults struct{ accepts, dials, splices, datagrams, panics, unsaid atomic.Uint64 }

// Counts returns the counters of all backends of the splits served now, and of
// removed ones that still have open flows. A byte is counted when it has been
// written to its receiver's socket; PROXY headers, which are no client's, are
// not. Of a flow that is carried (Carrier) those of the client's connection are, as
// they are read from it and written to it. It may be called from many goroutines and
// waits for no network.
func (r *Relay) Counts() map[traffic.BackendKey]traffic.Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[traffic.BackendKey]traffic.Counts, len(r.counters))
	for key, c := range r.counters {
		if r.serves(key) || c.active() > 0 {
			counts[key] = c.read()
		}
	}
	return counts
}

// Faults returns what went wrong on this host since New. It may be called
// from many goroutines and waits for no network.
func (r *Relay) Faults() Faults {
	f := &r.faults
	r.mu.Lock()
	overflow := r.overflow()
	r.mu.Unlock()
	return Faults{
		Accepts: f.accepts.Load(), Dials: f.dials.Load(),
		Splices: f.splices.Load(), Datagrams: f.datagrams.Load() + overflow, Panics: f.panics.Load(), Unsaid: f.unsaid.Load(),
	}
}

// Refusals returns how many connections were reset without being tried, and how
// many datagrams began no flow, by split and reason; what is none is not there. It
// may be called from many goroutines.
func (r *Relay) Refusals() map[string]map[traffic.Refusal]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	refusals := map[string]map[traffic.Refusal]uint64{}
	for name := range r.splits {
		if g := r.gates[name]; g != nil {
			refusals[name] = g.refusals()
		}
	}
	return refusals
}

// ShutOut returns when the newest client was shut out by a limit (max_flows,
// max_client_flows) or for lack of something (no_files, no_memory, no_ports), by split
// and reason; splits and reasons that shut nobody out are not there. It may be called
// from many goroutines.
func (r *Relay) ShutOut() map[string]map[traffic.Refusal]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]map[traffic.Refusal]time.Time{}
	for name := range r.splits {
		if g := r.gates[name]; g != nil {
			if newest := g.shutOut(); len(newest) > 0 {
				all[name] = newest
			}
		}
	}
	return all
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
		c = &counter{tallies: make([]tally, r.wanted)}
		r.counters[key] = c
	}
	return c
}
