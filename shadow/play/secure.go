package play

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// secures makes what makes TLS handshakes: the control is judged as the primary is. Nil
// where the split's flows are not seen into. Files of roots are read once.
func (o Options) secures() (func(context.Context, net.Conn, shadow.Handshake, bool) (net.Conn, shadow.Handshake, error), error) {
	t := o.Split.Shadow.TLS
	if !t.On() {
		return nil, nil
	}
	candidate, err := o.verifier("to_candidate", t.ToCandidate)
	if err != nil {
		return nil, err
	}
	primary, err := o.verifier("to_primary", t.ToPrimary)
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

func (o Options) verifier(key string, trust traffic.Trust) (*secure.Verifier, error) {
	v, err := secure.NewVerifier(trust, o.Now)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("shadow split %q: shadow.tls.%s: %w: the process that plays shadows runs as splitd's user and has no capabilities: "+
			"let that user read the file, and pass through the directories above it", o.Split.Name, key, err)
	case err != nil:
		return nil, fmt.Errorf("shadow split %q: shadow.tls.%s: %w", o.Split.Name, key, err)
	}
	return v, nil
}
