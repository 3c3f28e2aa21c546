package ladder

import "net/netip"

// The request of a client, and the reply of who serves it, who says in Via who he
// is: so a client notices a byte that is not the primary's.
const (
	request = "GET /ladder HTTP/1.1\r\nHost: ladder.test\r\n\r\n"

	reply          = "HTTP/1.1 200 OK\r\nVia: 1.1 primary\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
	candidateReply = "HTTP/1.1 200 OK\r\nVia: 1.1 candidate\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
)

// Primary is a server of a small page, in HTTP/1.1 with connections that are kept.
// Close it.
type Primary struct{ pages *pages }

// NewPrimary has a primary serve at a free port of the address.
func NewPrimary(at netip.Addr) (*Primary, error) {
	p, err := newPages(at, reply)
	if err != nil {
		return nil, err
	}
	return &Primary{p}, nil
}

// Address is where it listens.
func (p *Primary) Address() netip.AddrPort { return p.pages.address() }

// Close ends it and its connections.
func (p *Primary) Close() { p.pages.close() }
