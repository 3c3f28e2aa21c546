package secure

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/traffic"
)

// A Verifier judges certificates of one backend. It may be used from many goroutines.
type Verifier struct {
	trust traffic.Trust
	now   func() time.Time

	roots atomic.Pointer[x509.CertPool] // of the file, where there is one; nil: it could not be read yet

	mu     sync.Mutex // guards what follows
	read   Mark       // of the file, as it was read last, well or not
	looked time.Time
}

// lookEvery is how often the file of roots is looked at.
const lookEvery = time.Second

// NewVerifier makes one, which has read what file of roots trust names, and reads it again when it
// has changed: what cannot be used stays as it was. Where it cannot be read the error says
// why, and the verifier trusts nobody by it until it can. Nil for now is time.Now.
func NewVerifier(trust traffic.Trust, now func() time.Time) (*Verifier, error) {
	v := &Verifier{trust: trust, now: now}
	if v.now == nil {
		v.now = time.Now
	}
	if trust.CA == "" {
		return v, nil
	}
	v.looked, v.read = v.now(), MarkOf(trust.CA)
	roots, err := readRoots(trust.CA)
	v.roots.Store(roots)
	return v, err
}

func readRoots(file string) (*x509.CertPool, error) {
	text, _, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("read roots %q: %w", file, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read roots %q: there is no certificate in it: %s", file, notPEM(text, "x509", string(beginsCertificate)))
	}
	return roots, nil
}

// Roots are those of the file that trust names, as it is now; nil: it names none, or it could
// not be read yet.
func (v *Verifier) Roots() *x509.CertPool {
	if v.trust.CA != "" {
		v.look()
	}
	return v.roots.Load()
}

// trusted are the roots by which a certificate is judged, in turn: nil are the host's, of which
// who takes any tells also what they say.
func (v *Verifier) trusted() (all []*x509.CertPool) {
	if roots := v.roots.Load(); roots != nil {
		all = append(all, roots)
	}
	if v.trust.CA == "" || v.trust.Report {
		all = append(all, nil)
	}
	return all
}

// look reads the file again that has changed. Others do not wait for who does.
func (v *Verifier) look() {
	if !v.mu.TryLock() {
		return
	}
	defer v.mu.Unlock()
	now := v.now()
	if now.Sub(v.looked).Abs() < lookEvery {
		return
	}
	v.looked = now
	is := MarkOf(v.trust.CA)
	if is == v.read {
		return
	}
	v.read = is
	if roots, err := readRoots(v.trust.CA); err == nil {
		v.roots.Store(roots)
	}
}

// judge says what is wrong with a chain, whose first certificate is the backend's own, for what
// was asked; nil is nothing.
func (v *Verifier) judge(chain []*x509.Certificate, asked shadow.Handshake) error {
	if len(chain) == 0 {
		return errors.New("the backend has shown no certificate")
	}
	if len(v.trust.Pins) > 0 {
		if key := pin(chain[0]); !slices.Contains(v.trust.Pins, key) {
			return fmt.Errorf("its key %s is none of those that are pinned", key)
		}
		return nil
	}
	if err := v.judgeName(chain[0], asked); err != nil {
		return err
	}
	if v.trust.CA != "" {
		v.look()
	}
	return v.reaches(chain, v.now())
}

// Reaches says why the roots by which the backend is judged do not reach a certificate that was
// loaded, by the chain behind it, of whatever name and at a time at which it is valid; nil: they do. By pins alone none is
// reached. It looks at no file.
func (v *Verifier) Reaches(c *tls.Certificate) error {
	chain := []*x509.Certificate{c.Leaf}
	for _, der := range c.Certificate[1:] {
		if next, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, next)
		}
	}
	at := v.now()
	switch {
	case at.Before(chain[0].NotBefore):
		at = chain[0].NotBefore
	case at.After(chain[0].NotAfter):
		at = chain[0].NotAfter
	}
	return v.reaches(chain, at)
}

func (v *Verifier) reaches(chain []*x509.Certificate, at time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	err := fmt.Errorf("roots %q could not be read yet", v.trust.CA)
	for _, roots := range v.trusted() {
		if _, err = chain[0].Verify(x509.VerifyOptions{Intermediates: between, Roots: roots, CurrentTime: at}); err == nil {
			return nil
		}
	}
	return untimely(err, chain[0], v.now())
}

// untimely says in words that a certificate is out of its time. The moments, which are another
// one each time, are what reports mask.
func untimely(err error, own *x509.Certificate, now time.Time) error {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || invalid.Cert == nil {
		return err
	}
	whose, is := "it", "has expired"
	if !invalid.Cert.Equal(own) {
		whose = "one that it is signed by"
	}
	if now.Before(invalid.Cert.NotBefore) {
		is = "is not valid yet"
	}
	return errors.New(whose + " " + is)
}

// judgeName says whether a certificate is of the name that is stated or, without one, that the
// client asks for. Who asks for none, as many mail servers do, is served by a certificate of the
// service's own: it has to be of one of that one's names, or anybody's would do.
func (v *Verifier) judgeName(c *x509.Certificate, asked shadow.Handshake) error {
	names := asked.Certificate.Names
	switch {
	case v.trust.Name != "":
		names = []string{v.trust.Name}
	case asked.ServerName != "":
		names = []string{asked.ServerName}
	}
	if len(names) == 0 && !v.trust.Report {
		return errors.New("the client asks for no name, and none is known that it has to be of: write name beside system or ca")
	}
	var wrong error
	for _, name := range names {
		err := c.VerifyHostname(name)
		if err == nil {
			return nil
		}
		wrong = err
	}
	return wrong
}

// pin is that of a certificate's key.
func pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
