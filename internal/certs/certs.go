// Package certs makes certificates for services that live as long as a demo, a measurement
// or a test. No secret of the machine is touched, and none is worth one.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Authority issues certificates. It may be used from many goroutines.
type Authority struct {
	// PEM is its own certificate, which those who trust it need.
	PEM []byte
	own tls.Certificate
	now time.Time
}

// life is long enough that nobody is warned of an end that is near.
const life = 90 * 24 * time.Hour

// New makes an authority of that time.
func New(now time.Time) (*Authority, error) {
	own, err := Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "splitd's authority for an hour"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life + time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return nil, err
	}
	return &Authority{PEM(own), own, now}, nil
}

// Issue makes a certificate of names and addresses with a key of its own, ECDSA P-256,
// and returns both as one text in PEM. All that it issues end at the same time.
func (a *Authority) Issue(names ...string) ([]byte, error) {
	return a.issue(a.now.Add(-time.Hour), a.now.Add(life), names)
}

// IssueExpired makes one that has ended yesterday.
func (a *Authority) IssueExpired(names ...string) ([]byte, error) {
	return a.issue(a.now.Add(-life), a.now.Add(-24*time.Hour), names)
}

func (a *Authority) issue(from, until time.Time, names []string) ([]byte, error) {
	if len(names) == 0 {
		return nil, errors.New("issue a certificate: it is of no name")
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: names[0]}, NotBefore: from, NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	signed, err := Sign(leaf, &a.own, nil)
	if err != nil {
		return nil, err
	}
	key, err := KeyPEM(signed)
	if err != nil {
		return nil, err
	}
	return append(PEM(signed), key...), nil
}

// Read is the certificate of a file that has what [Authority.Issue] returns.
func Read(file string) (tls.Certificate, error) { return tls.LoadX509KeyPair(file, file) }

// Pool reads a file of authorities.
func Pool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read authorities %q: there is none in it", file)
	}
	return pool, nil
}
