package ladder

import "net/netip"

// Primary is a server of a page, in HTTP/1.1 with connections that are kept. Close
// it.
type Primary struct{ pages *pages }

// NewPrimary has a primary serve the page at a free port of the address, whatever it
// is asked for.
func NewPrimary(at netip.Addr, p Page) (*Primary, error) {
	served, err := newPages(at, newSheet(p, byPrimary))
	if err != nil {
		return nil, err
	}
	return &Primary{served}, nil
}

// Address is where it listens.
func (p *Primary) Address() netip.AddrPort { return p.pages.address() }

// Close ends it and its connections.
func (p *Primary) Close() { p.pages.close() }
