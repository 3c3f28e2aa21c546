package splitter

import (
	"cmp"
	"net/netip"

	"github.com/splitd/splitd/traffic"
)

// spot is where a front is: an address and port of one transport.
type spot struct {
	netip.AddrPort
	transport traffic.Transport
}

// String is the address as text, which says so where it is not of TCP.
func (s spot) String() string {
	if s.transport == traffic.UDP {
		return s.AddrPort.String() + "/" + string(traffic.UDP)
	}
	return s.AddrPort.String()
}

// compare orders spots.
func (s spot) compare(other spot) int {
	return cmp.Or(s.Compare(other.AddrPort), cmp.Compare(s.transport, other.transport))
}

// wildcard is the spot that covers s and all others of its family and port.
func (s spot) wildcard() spot {
	all := netip.IPv6Unspecified()
	if s.Addr().Is4() {
		all = netip.IPv4Unspecified()
	}
	return spot{netip.AddrPortFrom(all, s.Port()), s.transport}
}
