package secure

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/traffic"
)

// A Verifier judges certificates of one backend. It may be used from many goroutines.
type Verifier struct {
	trust traffic.Trust
	roots *x509.CertPool // nil: those of the host, read when they are first needed
	now   func() time.Time
}

// NewVerifier makes one, which has read what files trust names. Nil for now is time.Now.
func NewVerifier(trust traffic.Trust, now func() time.Time) (*Verifier, error) {
	v := &Verifier{trust: trust, now: now}
	if v.now == nil {
		v.now = time.Now
	}
	if trust.CA == "" {
		return v, nil
	}
	text, _, err := readFile(trust.CA)
	if err != nil {
		return nil, fmt.Errorf("read roots %q: %w", trust.CA, err)
	}
	v.roots = x509.NewCertPool()
	if !v.roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read roots %q: there is no certificate in it: it has to be in PEM", trust.CA)
	}
	return v, nil
}

// judge says what is wrong with a chain, whose first certificate is the backend's own,
// where the client has asked for a name; nil is nothing.
func (v *Verifier) judge(chain []*x509.Certificate, asked string) error {
	if len(chain) == 0 {
		return errors.New("the backend has shown no certificate")
	}
	if len(v.trust.Pins) > 0 {
		if key := pin(chain[0]); !slices.Contains(v.trust.Pins, key) {
			return fmt.Errorf("its key %s is none of those that are pinned", key)
		}
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: v.name(asked), Intermediates: between, Roots: v.roots, CurrentTime: v.now()})
	return err
}

// name is the one that a certificate has to be of; "" is any.
func (v *Verifier) name(asked string) string {
	if v.trust.Name != "" {
		return v.trust.Name
	}
	return asked
}

// pin is that of a certificate's key.
func pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
