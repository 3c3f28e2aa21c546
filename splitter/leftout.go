package splitter

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/splitd/splitd/traffic"
)

// LeftOut is an address of a candidate that gets no flows but one now and then,
// because those before were not served there.
type LeftOut struct {
	Address   netip.AddrPort
	Transport traffic.Transport
	Since     time.Time
}

// LeftOut returns what is left out of the splits that are served, by candidate and
// sorted by address. It may be called from many goroutines and waits for no network.
func (r *Relay) LeftOut() map[traffic.BackendKey][]LeftOut {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[traffic.BackendKey][]LeftOut{}
	for _, f := range r.fronts {
		if f.goes {
			continue
		}
		c := f.choice.Load()
		for i := range c.candidates {
			key := traffic.BackendKey{Split: c.split, Backend: c.candidates[i].name}
			for _, t := range c.candidates[i].targets {
				if since, open := t.circuit.openSince(); open {
					all[key] = append(all[key], LeftOut{t.at, c.transport, since})
				}
			}
		}
	}
	for key, out := range all {
		slices.SortFunc(out, LeftOut.compare)
		all[key] = slices.CompactFunc(out, func(a, b LeftOut) bool { return a.compare(b) == 0 }) // fronts share circuits
	}
	return all
}

func (l LeftOut) compare(other LeftOut) int {
	return cmp.Or(l.Address.Compare(other.Address), cmp.Compare(l.Transport, other.Transport))
}
