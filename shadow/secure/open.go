package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/splitd/splitd/shadow"
)

// ErrClientCertificate is the cause of a Handshake that has failed because the backend asks
// for a certificate of the client, which nobody but the client has.
var ErrClientCertificate = errors.New("it asks for a certificate of the client")

// ErrUntrusted is the cause of a Handshake that has failed because the backend's certificate is
// not what it has to be.
var ErrUntrusted = errors.New("its certificate is not trusted")

// Open makes a handshake on a connection to a backend: it asks for what asked says, and with
// what became of it returns the connection to speak through. Where that has failed
// the error says why, Handshake.Failed in words, and the connection is the caller's to
// close. What is wrong with a certificate of who takes any is in Handshake.Certificate.
// Names of asked.Certificate are those of the service, by which who asks for no name is served.
// demand says that a backend that asks for a certificate of the client fails with
// ErrClientCertificate; else it is told that there is none, as most clients do.
func Open(ctx context.Context, conn net.Conn, asked shadow.Handshake, v *Verifier, demand bool) (*tls.Conn, shadow.Handshake, error) {
	h := shadow.Handshake{
		ServerName: asked.ServerName, Protocols: asked.Protocols, Least: asked.Least, Most: asked.Most, Ciphers: asked.Ciphers,
		Began: v.now(),
	}
	config := &tls.Config{
		ServerName: asked.ServerName, NextProtos: asked.Protocols,
		MinVersion: asked.Least, MaxVersion: asked.Most, CipherSuites: asked.Ciphers,
		InsecureSkipVerify: true, // VerifyConnection does it, by the user's choice
		VerifyConnection: func(s tls.ConnectionState) error {
			h.Certificate = shown(s.PeerCertificates)
			err := v.judge(s.PeerCertificates, asked)
			switch {
			case err == nil:
				return nil
			case v.trust.Report:
				h.Certificate.Distrust = err.Error()
				return nil
			}
			return fmt.Errorf("%w: %w", ErrUntrusted, err)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if demand {
				return nil, ErrClientCertificate
			}
			return &tls.Certificate{}, nil
		},
	}
	if v.trust.Name != "" && asked.ServerName == "" {
		config.ServerName = v.trust.Name
	}
	secured := tls.Client(conn, config)
	err := secured.HandshakeContext(ctx)
	h.Ended = v.now()
	if err != nil {
		h.Failed = err.Error()
		return nil, h, err
	}
	s := secured.ConnectionState()
	h.Version, h.Cipher, h.Protocol, h.Resumed = s.Version, s.CipherSuite, s.NegotiatedProtocol, s.DidResume
	return secured, h, nil
}
