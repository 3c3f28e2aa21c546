package secure

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/splitd/splitd/traffic"
)

// fileMost is the most bytes of a file of a certificate or a key.
const fileMost = 1 << 20

// FileError says which of the two files of a certificate cannot be used.
type FileError struct {
	File string
	Key  bool // it is that of the key
	Err  error
}

func (e *FileError) Error() string {
	what := "certificate"
	if e.Key {
		what = "key"
	}
	return fmt.Sprintf("load %s %q: %s", what, e.File, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// Load reads a certificate with its chain, and its key, which nobody but its owner and its
// group may read. The error is a *FileError, which holds nothing of what is in the key. A
// certificate that is out of its time, or of the wrong name, is none; see [Expired]
// and [Remarks].
func Load(c traffic.Certificate) (tls.Certificate, error) {
	none := tls.Certificate{}
	cert, mode, err := readFile(c.Cert)
	if err == nil {
		err = judgeChain(cert)
	}
	if err == nil && c.Cert != c.Key && hasKey(cert) && forOthers(mode) {
		err = fmt.Errorf("there is a private key in it too, and its mode is %04o, so that every user of this host may read or write it: take the key out, or `chmod o-rwx` it", mode.Perm())
	}
	if err != nil {
		return none, &FileError{c.Cert, false, err}
	}
	key, mode, err := readFile(c.Key)
	if err == nil {
		err = judgeKey(key, mode)
	}
	if err != nil {
		return none, &FileError{c.Key, true, err}
	}
	pair, err := tls.X509KeyPair(cert, key)
	switch {
	case err == nil:
		return pair, nil
	case strings.Contains(err.Error(), "does not match"):
		return none, &FileError{c.Key, true, fmt.Errorf("it is not the key of the certificate in %q, or that file does not begin with it: name the two that were made together", c.Cert)}
	}
	return none, &FileError{c.Key, true, errors.New(strings.TrimPrefix(err.Error(), "tls: "))}
}

// readFile reads a regular file, and does not wait for what stands in its place.
func readFile(name string) ([]byte, fs.FileMode, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, unread(err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, unread(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("it is not a file")
	}
	text, err := io.ReadAll(io.LimitReader(file, fileMost+1))
	if err != nil {
		return nil, 0, unread(err)
	}
	if len(text) > fileMost {
		return nil, 0, errors.New("it is over 1 MiB")
	}
	return text, info.Mode(), nil
}

// unread is why a file cannot be read, without its name, and what to do.
func unread(err error) error {
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w on this host", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: let the user that splitd runs as read it and enter the directories above it (its unit hides /etc/ssl/private and homes, and has root read root's own files alone: see docs/shadow.md), or run this as one who may", err)
	}
	return err
}

// forOthers says that a mode is not for owner and group alone.
func forOthers(mode fs.FileMode) bool { return mode&0o007 != 0 }

// hasKey says that there is a private key in a text.
func hasKey(text []byte) bool {
	found := false
	for block := range blocks(text) {
		found = found || strings.HasSuffix(block.Type, "PRIVATE KEY")
	}
	return found
}

// notPEM is what there has to be in a text in which it is not; kind is what OpenSSL calls it.
func notPEM(text []byte, kind, begins string) string {
	if len(text) > 0 && text[0] == 0x30 { // a SEQUENCE: X.690, section 8.9
		return "it has to be in PEM, and this is DER: `openssl " + kind + " -inform der -in FILE -out FILE.pem` makes one of it"
	}
	return "it has to be in PEM, and begins with " + begins
}

// blocks are those of PEM in a text.
func blocks(text []byte) func(func(*pem.Block) bool) {
	return func(yield func(*pem.Block) bool) {
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if !yield(block) {
				return
			}
		}
	}
}

// judgeKey refuses a file without a key, one that others can read, and one that is of no use
// without a word.
func judgeKey(text []byte, mode fs.FileMode) error {
	if !hasKey(text) {
		if bytes.Contains(text, beginsCertificate) {
			return errors.New("there is a certificate in it and no key")
		}
		return errors.New("there is no private key in it: " + notPEM(text, "pkey", "-----BEGIN PRIVATE KEY----- or -----BEGIN EC PRIVATE KEY-----"))
	}
	if forOthers(mode) {
		return fmt.Errorf("its mode is %04o, so that every user of this host may read or write it: `chmod o-rwx` it", mode.Perm())
	}
	for block := range blocks(text) {
		// RFC 1421, section 4.6.1.1, as OpenSSL writes it still.
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return errors.New("it is encrypted, and splitd asks for no passphrase: write it without one (`openssl pkey -in KEY -out PLAIN`), for the user alone that splitd runs as")
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			break
		}
	}
	return nil
}

var beginsCertificate = []byte("-----BEGIN CERTIFICATE-----")

// judgeChain refuses a text without a certificate, and one with what is none: [pem.Decode] goes
// over what is damaged, and clients would be shown a chain with a gap.
func judgeChain(text []byte) error {
	parts := bytes.Split(text, beginsCertificate)[1:]
	if len(parts) == 0 {
		return errors.New("there is no certificate in it: " + notPEM(text, "x509", string(beginsCertificate)))
	}
	for i, part := range parts {
		err := errors.New("its lines are damaged, or some are missing")
		if block, _ := pem.Decode(slices.Concat(beginsCertificate, part)); block != nil && block.Type == "CERTIFICATE" {
			_, err = x509.ParseCertificate(block.Bytes)
		}
		if err != nil {
			return fmt.Errorf("certificate %d of the %d in it cannot be read: %w", i+1, len(parts), err)
		}
	}
	whole := 0
	for block := range blocks(text) {
		if block.Type == "CERTIFICATE" {
			whole++
		}
	}
	if whole < len(parts) {
		return fmt.Errorf("of the %d certificates in it only %d can be read: each has to begin at the begin of a line (a file without an end of its last line was put before another one)", len(parts), whole)
	}
	return nil
}

const dayFormat = "2006-01-02 15:04 MST"

// Expired says that a certificate, which Load has returned, is over at that time; nil: it
// is not.
func Expired(c tls.Certificate, now time.Time) error {
	if end := c.Leaf.NotAfter; now.After(end) {
		return fmt.Errorf("the certificate has expired on %s: renew it", end.UTC().Format(dayFormat))
	}
	return nil
}

// Remarks are what else is wrong with a certificate that Load has returned: it can be
// served, and clients may not like it.
func Remarks(c tls.Certificate, now time.Time) []string {
	var all []string
	leaf := c.Leaf
	if now.Before(leaf.NotBefore) {
		all = append(all, fmt.Sprintf("the certificate is not valid before %s", leaf.NotBefore.UTC().Format(dayFormat)))
	}
	if by := shown([]*x509.Certificate{leaf}).RenewBy(); !now.Before(by) && !now.After(leaf.NotAfter) {
		all = append(all, fmt.Sprintf("the certificate expires on %s: renew it", leaf.NotAfter.UTC().Format(dayFormat)))
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		all = append(all, "the certificate is of no name (subjectAltName has none): no client that looks at names will take it")
	}
	if bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
		all = append(all, "the certificate is its own issuer (self-signed): clients take it that were told to, and those that do not look")
	}
	if mustStaple(leaf) {
		all = append(all, "the certificate asks for a stapled answer of OCSP (must-staple), and splitd staples none: clients that insist on it refuse the flows that are seen into: have one issued without it")
	}
	if len(c.Certificate) == 1 && len(leaf.IssuingCertificateURL) > 0 { // RFC 5280, 4.2.2.1: who has issued it is to be fetched
		all = append(all, "nothing stands behind the certificate in the file, and its issuer is no root: clients that do not have that one refuse it: write the chain behind it (certbot: fullchain.pem)")
	}
	if len(c.Certificate) > 1 {
		if next, err := x509.ParseCertificate(c.Certificate[1]); err != nil || !bytes.Equal(leaf.RawIssuer, next.RawSubject) {
			all = append(all, "the second certificate in the file has not issued the first: write the chain behind the certificate, each followed by who issued it")
		}
	}
	return all
}

// mustStaple says that a certificate wants its status shown with it (RFC 7633: the TLS feature
// status_request, 5, or status_request_v2, 17).
func mustStaple(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		var features []int
		if !e.Id.Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}) {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &features); err == nil && (slices.Contains(features, 5) || slices.Contains(features, 17)) {
			return true
		}
	}
	return false
}
