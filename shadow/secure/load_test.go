package secure_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

var noon = time.Date(2030, 6, 15, 12, 0, 0, 0, time.UTC)

// made is a certificate and its key, also in PEM.
type made struct {
	tls.Certificate
	cert, key []byte
}

// issue makes a certificate, by itself where nobody issues it.
func issue(t *testing.T, template x509.Certificate, by *made) made {
	t.Helper()
	var parent *tls.Certificate
	if by != nil {
		parent = &by.Certificate
	}
	signed, err := certs.Sign(&template, parent, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := certs.KeyPEM(signed)
	if err != nil {
		t.Fatal(err)
	}
	return made{signed, certs.PEM(signed), key}
}

func authority(t *testing.T, name string) made {
	t.Helper()
	return issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: noon.AddDate(-1, 0, 0), NotAfter: noon.AddDate(5, 0, 0),
	}, nil)
}

func server(t *testing.T, by *made, notAfter time.Time, names ...string) made {
	t.Helper()
	return issue(t, x509.Certificate{
		Subject: pkix.Name{CommonName: "server"}, DNSNames: names, NotBefore: noon.AddDate(0, -1, 0), NotAfter: notAfter,
	}, by)
}

func put(t *testing.T, name string, mode os.FileMode, texts ...[]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	for _, text := range texts {
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAPairThatFitsIsLoadedWithItsChain(t *testing.T) {
	root := authority(t, "root")
	leaf := server(t, &root, noon.AddDate(0, 3, 0), "mx.example.org")
	both := put(t, "both.pem", 0o640, leaf.cert, root.cert, leaf.key)
	for _, pair := range []traffic.Certificate{
		{Cert: put(t, "cert.pem", 0o644, leaf.cert, root.cert), Key: put(t, "key.pem", 0o640, leaf.key)},
		{Cert: both, Key: both},
	} {
		got, err := secure.Load(pair)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Certificate) != 2 || got.Leaf == nil || got.Leaf.VerifyHostname("mx.example.org") != nil {
			t.Errorf("loaded %d certificates, the first of %v", len(got.Certificate), got.Leaf)
		}
	}
}

func TestAPairThatCannotBeServedIsRefusedByTheNameOfTheFile(t *testing.T) {
	leaf, other := server(t, nil, noon.AddDate(0, 3, 0), "a"), server(t, nil, noon.AddDate(0, 3, 0), "b")
	cert, key := put(t, "cert.pem", 0o644, leaf.cert), put(t, "key.pem", 0o600, leaf.key)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	wrapped := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("secret")})
	traditional := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("secret")})
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")})
	garbled := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("no key")})
	tests := []struct {
		name      string
		cert, key string
		ofKey     bool
		want      string
	}{
		{"no certificate's file", "/nowhere/cert.pem", key, false, "no such file or directory on this host"},
		{"no key's file", cert, "/nowhere/key.pem", true, "no such file or directory on this host"},
		{"a directory", cert, t.TempDir(), true, "not a file"},
		{"a pipe", fifo, key, false, "not a file"},
		{"too long", put(t, "long.pem", 0o600, make([]byte, 1<<20+1)), key, false, "over 1 MiB"},
		{"no PEM", put(t, "empty.pem", 0o600, nil), key, false, "there is no certificate in it: it has to be in PEM, and begins with -----BEGIN CERTIFICATE-----"},
		{"DER", put(t, "der.pem", 0o600, leaf.Leaf.Raw), key, false, "there is no certificate in it: it has to be in PEM, and this is DER: `openssl x509 -inform der -in FILE -out FILE.pem` makes one of it"},
		{"a key in DER", cert, put(t, "key.der", 0o600, []byte("\x30\x81\x87")), true, "there is no private key in it: it has to be in PEM, and this is DER: `openssl pkey -inform der -in FILE -out FILE.pem` makes one of it"},
		{"a key as certificate", key, key, false, "there is no certificate in it"},
		{"a certificate as key", cert, put(t, "cert.pem", 0o600, leaf.cert), true, "there is a certificate in it and no key"},
		{"a certificate as key, for everybody", cert, put(t, "cert.pem", 0o644, leaf.cert), true, "there is a certificate in it and no key"},
		{"a key beside the certificate, for everybody", put(t, "both.pem", 0o644, leaf.cert, leaf.key), key, false, "there is a private key in it too, and its mode is 0644, so that every user of this host may read or write it: take the key out, or `chmod o-rwx` it"},
		{"an empty key", cert, put(t, "empty.pem", 0o600, nil), true, "there is no private key in it"},
		{"another's key", cert, put(t, "other.pem", 0o600, other.key), true, "it is not the key of the certificate in " + `"` + cert + `"`},
		{"an encrypted key", cert, put(t, "wrapped.pem", 0o600, wrapped), true, "it is encrypted"},
		{"a key encrypted as OpenSSL did", cert, put(t, "traditional.pem", 0o600, traditional), true, "it is encrypted"},
		{"a key for everybody", cert, put(t, "open.pem", 0o644, leaf.key), true, "its mode is 0644, so that every user of this host may read or write it"},
		{"a key to be written by everybody", cert, put(t, "open.pem", 0o602, leaf.key), true, "its mode is 0602"},
		{"a broken certificate", put(t, "broken.pem", 0o600, broken), key, false, "certificate 1 of the 1 in it cannot be read: x509: malformed certificate"},
		{"a broken chain", put(t, "broken.pem", 0o600, leaf.cert, broken, other.cert), key, false, "certificate 2 of the 3 in it cannot be read: x509: malformed certificate"},
		{"a chain that is cut", put(t, "cut.pem", 0o600, leaf.cert, other.cert, leaf.cert[:100]), key, false, "certificate 3 of the 3 in it cannot be read: its lines are damaged"},
		{"files one behind the other, the first without an end of its last line", put(t, "joined.pem", 0o600, bytes.TrimSuffix(leaf.cert, []byte("\n")), other.cert), key, false, "of the 2 certificates in it only 0 can be read"},
		{"a gap in a chain", put(t, "gap.pem", 0o600, leaf.cert, bytes.TrimSuffix(other.cert, []byte("\n")), other.cert), key, false, "of the 3 certificates in it only 1 can be read"},
		{"a chain with a damaged line", put(t, "damaged.pem", 0o600, leaf.cert, bytes.Replace(other.cert, []byte("M"), []byte("*"), 1), leaf.cert), key, false, "certificate 2 of the 3 in it cannot be read: its lines are damaged"},
		{"a broken key", cert, put(t, "garbled.pem", 0o600, garbled), true, "failed to parse private key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := secure.Load(traffic.Certificate{Cert: test.cert, Key: test.key})
			fault, ok := errors.AsType[*secure.FileError](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			file := test.cert
			if test.ofKey {
				file = test.key
			}
			if fault.Key != test.ofKey || fault.File != file || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("got %+v\nwant %q of %s", fault, test.want, file)
			}
			if strings.Contains(err.Error(), "PRIVATE KEY-----\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has what the key holds: %s", err)
			}
		})
	}
}

func TestWhatIsWrongWithACertificateThatCanBeServedIsTold(t *testing.T) {
	root, stranger := authority(t, "root"), authority(t, "stranger")
	pair := func(m made, chain ...made) tls.Certificate {
		text := m.cert
		for _, c := range chain {
			text = append(text, c.cert...)
		}
		loaded, err := secure.Load(traffic.Certificate{Cert: put(t, "cert.pem", 0o644, text), Key: put(t, "key.pem", 0o600, m.key)})
		if err != nil {
			t.Fatal(err)
		}
		return loaded
	}
	good := pair(server(t, &root, noon.AddDate(0, 3, 0), "mx.example.org"), root)
	address := pair(issue(t, x509.Certificate{Subject: pkix.Name{CommonName: "x"}, IPAddresses: []net.IP{{192, 0, 2, 1}}, NotBefore: noon, NotAfter: noon.AddDate(0, 3, 0)}, &root))
	featured := func(name string, feature int) made {
		value, err := asn1.Marshal([]int{feature})
		if err != nil {
			t.Fatal(err)
		}
		return issue(t, x509.Certificate{
			Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{name}, NotBefore: noon, NotAfter: noon.AddDate(0, 3, 0),
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: value}},
		}, &root)
	}
	tests := []struct {
		name    string
		pair    tls.Certificate
		at      time.Time
		expired string
		remarks []string
	}{
		{"good", good, noon, "", nil},
		{"of an address", address, noon, "", nil},
		{"a day before it is soon", good, noon.AddDate(0, 3, -15), "", nil},
		{"soon", good, noon.AddDate(0, 3, -13), "", []string{"the certificate expires on 2030-09-15 12:00 UTC: renew it"}},
		{"the last moment", good, noon.AddDate(0, 3, 0), "", []string{"the certificate expires on 2030-09-15 12:00 UTC: renew it"}},
		{"over", good, noon.AddDate(0, 3, 1), "the certificate has expired on 2030-09-15 12:00 UTC: renew it", nil},
		{"early", good, noon.AddDate(0, -2, 0), "", []string{"the certificate is not valid before 2030-05-15 12:00 UTC"}},
		{"of no name", pair(server(t, &root, noon.AddDate(0, 3, 0))), noon, "", []string{"the certificate is of no name (subjectAltName has none): no client that looks at names will take it"}},
		{"of its own", pair(server(t, nil, noon.AddDate(0, 3, 0), "a")), noon, "", []string{"the certificate is its own issuer (self-signed): clients take it that were told to, and those that do not look"}},
		{"a day before it is soon, of six days", pair(server(t, &root, noon.AddDate(0, -1, 6), "a")), noon.AddDate(0, -1, 3), "", nil},
		{"soon, of six days", pair(server(t, &root, noon.AddDate(0, -1, 6), "a")), noon.AddDate(0, -1, 4), "", []string{"the certificate expires on 2030-05-21 12:00 UTC: renew it"}},
		{"without its chain", pair(issue(t, x509.Certificate{
			Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"a"}, NotBefore: noon, NotAfter: noon.AddDate(0, 3, 0), IssuingCertificateURL: []string{"http://ca.example/root.der"},
		}, &root)), noon, "", []string{"nothing stands behind the certificate in the file, and its issuer is no root: clients that do not have that one refuse it: write the chain behind it (certbot: fullchain.pem)"}},
		{"with a staple", pair(featured("a", 5)), noon, "", []string{"the certificate asks for a stapled answer of OCSP (must-staple), and splitd staples none: clients that insist on it refuse the flows that are seen into: have one issued without it"}},
		{"with a staple for the chain", pair(featured("a", 17)), noon, "", []string{"the certificate asks for a stapled answer of OCSP (must-staple), and splitd staples none: clients that insist on it refuse the flows that are seen into: have one issued without it"}},
		{"with another feature", pair(featured("a", 16)), noon, "", nil},
		{"with another's chain", pair(server(t, &root, noon.AddDate(0, 3, 0), "a"), stranger), noon, "", []string{"the second certificate in the file has not issued the first: write the chain behind the certificate, each followed by who issued it"}},
	}
	for _, test := range tests {
		got := ""
		if err := secure.Expired(test.pair, test.at); err != nil {
			got = err.Error()
		}
		if got != test.expired {
			t.Errorf("%s: expired: got %q, want %q", test.name, got, test.expired)
		}
		if diff := cmp.Diff(test.remarks, secure.Remarks(test.pair, test.at)); diff != "" {
			t.Errorf("%s: remarks (-want +got):\n%s", test.name, diff)
		}
	}
}
