package traffic

import "net/netip"

// ReturnMatch says how a new host knows the replies that must go back through
// a router.
type ReturnMatch string

// MatchAddress knows them by their source address, kept for that purpose;
// MatchMark by a mark that their flow got when it came in.
const (
	MatchAddress ReturnMatch = "address"
	MatchMark    ReturnMatch = "mark"
)

// ReturnPath stands on the NEW host: replies to flows that came through a
// splitd router go back through that router.
type ReturnPath struct {
	Name   string      `json:"name"`
	Via    netip.Addr  `json:"via,omitzero"` // the router; invalid on devices without neighbours (tunnels)
	Device string      `json:"device"`
	Match  ReturnMatch `json:"match"`
	// Address is the source address of the replies; MatchAddress only.
	Address netip.Addr `json:"address,omitzero"`
	// Ports are the services that the flows came in for; MatchMark only.
	// None means every port.
	Ports []Port `json:"ports,omitempty"`
}
