package traffic

import "net/netip"

// Mirror copies the packets that clients send in a share of the UDP flows to a
// collector, whose answers reach nobody. The zero value copies nothing.
type Mirror struct {
	// To is the collector: the flows of its address family alone are copied.
	To     netip.Addr `json:"to,omitzero"`
	Sample Weight     `json:"sample_ppm"`
}
