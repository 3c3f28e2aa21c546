package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/splitd/splitd/internal/certs"
)

// serviceName is what the certificates of both mail servers are of.
const serviceName = "mx.service.example"

// certify makes the certificates of the mail servers, each with a key of its own, by
// an authority that the clients trust.
func (c *cast) certify(now time.Time) error {
	authority, err := certs.New(now)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.roots(), authority.PEM, 0o600); err != nil {
		return err
	}
	for _, name := range []string{oldMX, newMX} {
		text, err := authority.Issue(serviceName)
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.certificate(name), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// roots is the file of the authority.
func (c *cast) roots() string { return filepath.Join(c.dir, "roots.pem") }

// certificate is the file of an MX's certificate and its key.
func (c *cast) certificate(mx string) string { return filepath.Join(c.dir, mx+"-certificate.pem") }

// shadowTLS is the part of a split's configuration by which splitd sees into the
// sessions that it shadows.
func (c *cast) shadowTLS() string {
	return fmt.Sprintf(`    shadow:
      tls:
        certificates: [{cert: %[1]q, key: %[1]q}] # the service's own
        to_primary: {ca: %[2]q}
        to_candidate: {ca: %[2]q}
`, c.certificate(oldMX), c.roots())
}
