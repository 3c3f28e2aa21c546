package secure

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/splitd/splitd/shadow"
)

// shown is what is told of the certificate that begins a chain.
func shown(chain []*x509.Certificate) shadow.Shown {
	if len(chain) == 0 {
		return shadow.Shown{}
	}
	c := chain[0]
	return shadow.Shown{Names: NamesOf(c), Issuer: c.Issuer.String(), Before: c.NotBefore, After: c.NotAfter, Key: pin(c), Kind: kind(c)}
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
