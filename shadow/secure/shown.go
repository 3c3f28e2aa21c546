package secure

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/shadow"
)

// shown is what is told of the certificate that begins a chain.
func shown(chain []*x509.Certificate) shadow.Shown {
	if len(chain) == 0 {
		return shadow.Shown{}
	}
	c := chain[0]
	return shadow.Shown{Names: NamesOf(c), Issuer: c.Issuer.String(), Before: moment(c.NotBefore), After: moment(c.NotAfter), Key: pin(c), Kind: kind(c)}
}

// moment is a time of a certificate in UTC and in a year of four digits: who makes it may
// have written another zone, up to a day away (RFC 5280, section 4.1.2.5, wants Z), which no
// JSON takes.
func moment(t time.Time) time.Time {
	t = t.UTC()
	switch {
	case t.Year() < 1 || t.IsZero():
		return time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC) // the zero time is none
	case t.Year() > 9999:
		return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	}
	return t
}

// NamesOf are those that a certificate is of, sorted: DNS names and addresses.
func NamesOf(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	slices.Sort(names)
	return names
}

// kind is what key a certificate has.
func kind(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}
