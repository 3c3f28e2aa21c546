package ladder

import "net/netip"

// Primary is a server of a page, in HTTP/1.1 with connections that are kept. Close
// it.
type Primary struct{ pages listening }

// NewPrimary has a primary serve the page at a free port of the address, whatever it
// is asked for: with certificates over TLS.
func NewPrimary(at netip.Addr, p Page, over *Certificates) (*Primary, error) {
	s := newSheet(p, byPrimary)
	if over == nil {
		served, err := newPages(at, s)
		if err != nil {
			return nil, err
		}
		return &Primary{served}, nil
	}
	config, err := over.server(over.Primary())
	if err != nil {
		return nil, err
	}
	served, err := newSecurePages(at, s, config)
	if err != nil {
		return nil, err
	}
	return &Primary{served}, nil
}

// Address is where it listens.
func (p *Primary) Address() netip.AddrPort { return p.pages.address() }

// Close ends it and its connections.
func (p *Primary) Close() { p.pages.close() }
