package ladder

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/splitd/splitd/internal/certs"
)

// Certificates are files for a ladder over TLS, in a folder of their own: of one
// authority, which everybody trusts, and all but one good. A nil one is no TLS. Close
// it.
type Certificates struct{ dir string }

// ServiceHost is what clients ask for: all certificates are of it.
const ServiceHost = "ladder.test"

// primaryHost is what those of the primary and of candidates are of besides: by it a client
// knows whether somebody stands in.
const primaryHost = "primary.ladder.test"

// NewCertificates makes them.
func NewCertificates() (*Certificates, error) {
	dir, err := os.MkdirTemp("", "splitd-ladder-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	c := &Certificates{dir}
	if err := c.make(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Certificates) make() error {
	authority, err := certs.New(time.Now())
	if err != nil {
		return err
	}
	files := map[string][]byte{c.Roots(): authority.PEM}
	for file, names := range map[string][]string{c.Service(): {ServiceHost}, c.Primary(): {ServiceHost, primaryHost}, c.candidate(Healthy): {ServiceHost, primaryHost}} {
		if files[file], err = authority.Issue(names...); err != nil {
			return err
		}
	}
	if files[c.candidate(Expired)], err = authority.IssueExpired(ServiceHost, primaryHost); err != nil {
		return err
	}
	for file, text := range files {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return fmt.Errorf("write certificate: %w", err)
		}
	}
	return nil
}

// Close removes the files.
func (c *Certificates) Close() error { return os.RemoveAll(c.dir) }

// Roots is the file of the authority.
func (c *Certificates) Roots() string { return filepath.Join(c.dir, "roots.pem") }

// Service is that of who stands in for the primary, with its key.
func (c *Certificates) Service() string { return filepath.Join(c.dir, "service.pem") }

// Primary is that of the primary, with its key.
func (c *Certificates) Primary() string { return filepath.Join(c.dir, "primary.pem") }

// candidate is the certificate of a candidate that behaves so.
func (c *Certificates) candidate(b Behaviour) string {
	if b == Expired {
		return filepath.Join(c.dir, "expired.pem")
	}
	return filepath.Join(c.dir, "candidate.pem")
}

// protocol is what ALPN says of HTTP/1.1.
const protocol = "http/1.1"

// server is how a server with that certificate speaks TLS.
func (c *Certificates) server(file string) (*tls.Config, error) {
	own, err := certs.Read(file)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS12}, nil
}

// client is how clients do. They begin each connection with a whole handshake.
func (c *Certificates) client() (*tls.Config, error) {
	roots, err := certs.Pool(c.Roots())
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, ServerName: ServiceHost, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS12}, nil
}

// config is what a splitd has to say of a split's TLS.
func (c *Certificates) config() string {
	return fmt.Sprintf("      tls:\n        certificates: [{cert: %[1]q, key: %[1]q}]\n        to_primary: {ca: %[2]q}\n        to_candidate: {ca: %[2]q}\n", c.Service(), c.Roots())
}
