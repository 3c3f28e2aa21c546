package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
)

// handshakePatience is how long a handshake may take.
const handshakePatience = time.Minute

// answer carries a flow whose client has said hello, inside TLS if it can be.
func (f *flow) answer(h *hello) error {
	if reason := f.refuses(h); reason != "" {
		return f.passThrough(reason)
	}
	primary, agreed, err := f.open(h)
	if err != nil {
		return err
	}
	config, reason := f.t.answers(h, agreed)
	if reason != "" {
		f.t.known.changed(f.place(), h.asked)
		f.t.counts.failedPrimary.Add(1) // which has agreed to something else than it did
		f.opens(agreed)
		f.refuse(h, alertHandshakeFailure)
		return &Broken{By: shadow.Primary, Err: errors.New(reason)}
	}
	unread := f.t.plain(agreed)
	if unread {
		f.t.counts.passedThrough(http2)
		f.unseen(http2)
	} else {
		f.opens(agreed)
	}
	client, err := f.accept(config)
	if err != nil {
		_ = f.primary.end(false)
		return err
	}
	if !unread {
		f.t.counts.isSeen(client.ConnectionState().DidResume)
	}
	err = f.both(client, inside{Conn: primary, side: f.primary})
	if broken, ok := errors.AsType[*Broken](err); ok && broken.By == shadow.Primary && renegotiates(err) {
		f.t.known.asks(f.place(), h.asked)
	}
	return err
}

// renegotiates says that an error is our refusal of a new handshake (RFC 5246, 7.4.1.1), which
// crypto/tls can make, but not with a certificate that only the client has.
func renegotiates(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "local error" && op.Err.Error() == alertNoRenegotiation.Error()
}

// refuses says why the flow is passed through.
func (f *flow) refuses(h *hello) string {
	t := f.t
	if reason := hopeless(h); reason != "" {
		return reason
	}
	t.Look()
	if !t.certificates.any(h.asked.ServerName) {
		return uncovered
	}
	known, ok := t.known.of(f.place(), h.asked)
	if !ok {
		return unknownYet
	}
	return t.judged(h, known)
}

// open makes the handshake with the primary. Where it fails the client is told what we
// were.
func (f *flow) open(h *hello) (*tls.Conn, shadow.Handshake, error) {
	ctx, cancel := context.WithTimeout(f.ctx, handshakePatience)
	defer cancel()
	conn, agreed, err := secure.Open(ctx, f.primary, f.t.named(h.asked), f.t.verifier.Load(), true)
	if f.ctx.Err() == nil {
		f.t.known.learn(f.place(), h.asked, agreed, err)
	}
	if err == nil {
		return conn, agreed, nil
	}
	f.t.counts.failedPrimary.Add(1)
	f.opens(agreed)
	f.refuse(h, alertOf(err))
	return nil, agreed, &Broken{By: shadow.Primary, Err: fmt.Errorf("handshake: %w", err)}
}

// accept makes the handshake with the client.
func (f *flow) accept(config *tls.Config) (inside, error) {
	ctx, cancel := context.WithTimeout(f.ctx, handshakePatience)
	defer cancel()
	conn := tls.Server(f.client, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		f.t.counts.failedClient.Add(1)
		_ = f.client.end(false)
		if refuses(err) {
			err = fmt.Errorf("%w: %w", errRefused, err)
			f.t.isRefused(&config.Certificates[0])
		}
		return inside{}, &Broken{By: shadow.Client, Err: fmt.Errorf("handshake: %w", err)}
	}
	if !conn.ConnectionState().DidResume { // else it was shown nothing
		f.t.accepted.took(&config.Certificates[0])
	}
	return inside{Conn: conn, side: f.client}, nil
}

const (
	alertNone             tls.AlertError = 0 // close_notify: there was none
	alertHandshakeFailure tls.AlertError = 40
	alertNoRenegotiation  tls.AlertError = 100
)

// refuse tells a client that has had no answer yet, in an alert in clear (RFC 8446, 6), and
// ends.
func (f *flow) refuse(h *hello, alert tls.AlertError) {
	if alert != alertNone {
		const record, fatal = 21, 2
		version := min(max(h.asked.Most, tls.VersionTLS10), tls.VersionTLS12)
		_, _ = f.client.Write([]byte{record, byte(version >> 8), byte(version), 0, 2, fatal, byte(alert)})
	}
	_ = f.client.end(false)
}

// isAlert says that a connection has ended by an alert of the other side.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// alertOf is the alert by which a handshake was refused, or by which one that has failed on our
// side is to be; none where the connection was.
func alertOf(err error) tls.AlertError {
	var op *net.OpError
	if isAlert(err) && errors.As(err, &op) {
		for i := range 256 {
			if a := tls.AlertError(i); a.Error() == op.Err.Error() {
				return a
			}
		}
	}
	if errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return alertNone
	}
	return alertHandshakeFailure
}
