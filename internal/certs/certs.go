// Package certs makes certificates for services that live as long as a demo or a
// measurement. No secret of the machine is touched, and none is worth one.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// Authority issues certificates. It may be used from many goroutines.
type Authority struct {
	// PEM is its own certificate, which those who trust it need.
	PEM  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  time.Time
}

// life is long enough that nobody is warned of an end that is near.
const life = 90 * 24 * time.Hour

// New makes an authority of that time.
func New(now time.Time) (*Authority, error) {
	a := &Authority{now: now}
	own := template("splitd's authority for an hour", now.Add(-time.Hour), now.Add(life+time.Hour))
	own.IsCA, own.BasicConstraintsValid, own.KeyUsage = true, true, x509.KeyUsageCertSign
	var err error
	var text []byte
	if a.key, text, err = sign(own, own, nil); err != nil {
		return nil, err
	}
	if a.cert, err = x509.ParseCertificate(text); err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	a.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: text})
	return a, nil
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
	leaf := template(names[0], from, until)
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	key, text, err := sign(leaf, a.cert, a.key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("issue a certificate: %w", err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: text}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), nil
}

func template(name string, from, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: until,
	}
}

// sign makes a key and has it certified; by itself where there is no other key.
func sign(what, by *x509.Certificate, with *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if with == nil {
		with = key
	}
	text, err := x509.CreateCertificate(rand.Reader, what, by, key.Public(), with)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate: %w", err)
	}
	return key, text, nil
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
