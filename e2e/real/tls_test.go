//go:build e2ereal

package real

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/internal/nettest"
)

// authority is a certificate authority of a test, whose certificate is in a file.
type authority struct {
	t      testing.TB
	dir    string
	file   string
	root   tls.Certificate
	issued []*keyPair
}

// keyPair is the files of a certificate and of its key.
type keyPair struct {
	name, cert, key string
	private         crypto.Signer
}

// lasting is how long a certificate is good for that nobody needs to be warned of.
const lasting = 90 * 24 * time.Hour

func newAuthority(t testing.TB, dir string) *authority {
	t.Helper()
	a := &authority{t: t, dir: filepath.Join(dir, "tls")}
	if err := os.Mkdir(a.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if a.root, err = certs.Sign(&x509.Certificate{
		Subject:   pkix.Name{CommonName: "Authority of the test"},
		NotBefore: time.Now().Add(-lasting), NotAfter: time.Now().Add(2 * lasting),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil); err != nil {
		t.Fatal(err)
	}
	a.file = write(t, filepath.Join(a.dir, "ca.pem"), string(certs.PEM(a.root)))
	return a
}

// issue writes NAME.pem and NAME.key, which root alone can read: a certificate of these
// hosts, for servers and clients, and its key, which is "ECDSA" or "RSA".
func (a *authority) issue(name, kind string, valid time.Duration, hosts ...string) *keyPair {
	a.t.Helper()
	p := &keyPair{name: name, cert: filepath.Join(a.dir, name+".pem"), key: filepath.Join(a.dir, name+".key"), private: newKey(a.t, kind)}
	signed, err := certs.Sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		NotBefore: time.Now().Add(-lasting), NotAfter: time.Now().Add(valid),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &a.root, p.private)
	if err != nil {
		a.t.Fatal(err)
	}
	key, err := certs.KeyPEM(signed)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, p.cert, string(certs.PEM(signed)))
	if err := os.WriteFile(p.key, key, 0o600); err != nil {
		a.t.Fatal(err)
	}
	a.issued = append(a.issued, p)
	return p
}

// replace puts the files of another pair in the place of this one's, each at once.
func (p *keyPair) replace(t testing.TB, cert, key string) {
	t.Helper()
	for _, move := range []struct{ from, to string }{{cert, p.cert}, {key, p.key}} {
		text, err := os.ReadFile(move.from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(move.to+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(move.to+".new", move.to); err != nil {
			t.Fatal(err)
		}
	}
}

// client is how a Go client of this service trusts the authority.
func (a *authority) client(name string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.root.Leaf)
	return &tls.Config{RootCAs: roots, ServerName: name}
}

// shadowTLS is the key shadow.tls of a split with these certificates, in one line.
func (a *authority) shadowTLS(certificates ...*keyPair) string {
	a.t.Helper()
	return a.shadowTLSTo("", certificates...)
}

// shadowTLSTo is the same, where the candidate's certificate is to be of that name.
func (a *authority) shadowTLSTo(candidate string, certificates ...*keyPair) string {
	var files []string
	for _, p := range certificates {
		files = append(files, fmt.Sprintf("{cert: %q, key: %q}", p.cert, p.key))
	}
	if candidate != "" {
		candidate = ", name: " + candidate
	}
	return fmt.Sprintf("tls: {certificates: [%s], to_primary: {ca: %q}, to_candidate: {ca: %[2]q%s}}", strings.Join(files, ", "), a.file, candidate)
}

func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); kind == "RSA" {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// serial is the serial number of the certificate.
func (p *keyPair) serial(t testing.TB) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf.SerialNumber.String()
}

// Why flows are passed through of whose primary nothing is known yet, or of which a client
// is asked for a certificate.
const (
	unknownYet = "the primary's TLS is not known yet"
	asksClient = "the primary asks for a certificate of the client"
)

// untilKnown has a client do something in one flow of the split, and nothing else be done,
// until it is known what comes of it at the primary: flows that are like it are then seen
// into, or passed through for what is known. It returns how often that was done.
func (l *lab) untilKnown(split string, do func()) (times int) {
	l.t.Helper()
	known := func() uint64 {
		tls := l.status(split).Shadow.TLS
		return tls.Terminated + tls.PassedThrough["HTTP/2"] + tls.PassedThrough[asksClient]
	}
	before := known()
	nettest.Eventually(l.t, "flows of "+split+" are known", func() bool {
		do()
		times++
		return known() > before
	}, func() any { return l.ok("show", split) })
	return times
}
