package play

import (
	"context"
	"net"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// secures makes what makes TLS handshakes: the control is judged as the primary is. Nil
// where the split's flows are not seen into.
func (o Options) secures() func(context.Context, net.Conn, shadow.Handshake, bool) (net.Conn, shadow.Handshake, error) {
	t := o.Split.Shadow.TLS
	if !t.On() {
		return nil
	}
	candidate, primary := o.verifier(t.Candidate()), o.verifier(t.Primary())
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
	}
}

// verifier trusts nobody while its roots cannot be read: all that is said in clear is still played.
func (o Options) verifier(by traffic.Trust) *secure.Verifier {
	v, err := secure.NewVerifier(by, o.Now)
	if err != nil {
		o.Log.Warn("certificates are not trusted", "error", err)
	}
	return v
}
