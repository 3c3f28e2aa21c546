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
	for key, c := range r.circuits {
		if since, open := c.openSince(); open {
			all[key.backend] = append(all[key.backend], LeftOut{key.at.AddrPort, key.at.transport, since})
		}
	}
	for _, out := range all {
		slices.SortFunc(out, LeftOut.compare)
	}
	return all
}

func (l LeftOut) compare(other LeftOut) int {
	return cmp.Or(l.Address.Compare(other.Address), cmp.Compare(l.Transport, other.Transport))
}
