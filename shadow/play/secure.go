package play

import (
	"context"
	"fmt"
	"net"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// secures makes what makes TLS handshakes: the control is judged as the primary is. Nil
// where the split's flows are not seen into.
func (o Options) secures() (func(context.Context, net.Conn, shadow.Handshake, bool) (net.Conn, shadow.Handshake, error), error) {
	t := o.Split.Shadow.TLS
	if !t.On() {
		return nil, nil
	}
	for key, trust := range map[string]traffic.Trust{"to_primary": t.ToPrimary, "to_candidate": t.ToCandidate} {
		if _, err := secure.NewVerifier(trust, o.Now); err != nil {
			return nil, fmt.Errorf("shadow split %q: shadow.tls.%s: %w", o.Split.Name, key, err)
		}
	}
	candidate, err := secure.NewVerifier(t.Candidate(), o.Now)
	if err != nil {
		return nil, err
	}
	primary, err := secure.NewVerifier(t.Primary(), o.Now)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, conn net.Conn, asked shadow.Handshake, control bool) (net.Conn, shadow.Handshake, error) {
		by := candidate
		if control {
			by = primary
		}
		secured, h, err := secure.Open(ctx, conn, asked, by, false)
		if err != nil {
			return nil, h, err // not a nil *tls.Conn in an interface
		}
		return secured, h, nil
	}, nil
}
