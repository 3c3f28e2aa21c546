package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWhatAnAuthorityIssuesIsOfItsNamesAndTrustedByThoseWhoTrustIt(t *testing.T) {
	now := time.Now()
	a, err := New(now)
	if err != nil {
		t.Fatal(err)
	}
	good, goodErr := a.Issue("mx.example", "192.0.2.1")
	expired, expiredErr := a.IssueExpired("mx.example")
	if goodErr != nil || expiredErr != nil {
		t.Fatal(goodErr, expiredErr)
	}
	file := func(text []byte) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	pool, err := Pool(file(a.PEM))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what string
		text []byte
		name string
		want string
	}{
		{"by its name", good, "mx.example", ""},
		{"by its address", good, "192.0.2.1", ""},
		{"by another", good, "www.example", "not www.example"},
		{"too late", expired, "mx.example", "expired"},
	} {
		pair, err := Read(file(tc.text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: tc.name, Roots: pool, CurrentTime: now})
		if err != nil {
			if tc.want == "" || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %q", tc.what, err, tc.want)
			}
		} else if tc.want != "" {
			t.Errorf("%s: it is trusted, want %q", tc.what, tc.want)
		}
	}
	if _, err := Pool(file(good[strings.Index(string(good), "-----END CERTIFICATE"):])); err == nil {
		t.Error("a file without an authority is taken")
	}
	if _, err := a.Issue(); err == nil {
		t.Error("a certificate of no name is issued")
	}
}

func TestACertificateIsSignedByWhomItSaysAndReadAsItWasWritten(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	root, rootErr := Sign(&x509.Certificate{Subject: pkix.Name{CommonName: "root"}, NotAfter: until, IsCA: true, BasicConstraintsValid: true}, nil, nil)
	leaf, leafErr := Sign(&x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, NotAfter: until}, &root, key)
	if rootErr != nil || leafErr != nil {
		t.Fatal(rootErr, leafErr)
	}
	for _, c := range []tls.Certificate{root, leaf} {
		if err := c.Leaf.CheckSignatureFrom(root.Leaf); err != nil {
			t.Errorf("%s: %v", c.Leaf.Subject, err)
		}
	}
	leaf.Certificate = append(leaf.Certificate, root.Certificate...)
	secret, err := KeyPEM(leaf)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tls.X509KeyPair(PEM(leaf), secret)
	if err != nil || len(got.Certificate) != 2 || !bytes.Equal(got.Certificate[1], root.Leaf.Raw) || !key.Equal(got.PrivateKey) {
		t.Errorf("%d certificates, %v", len(got.Certificate), err)
	}
}
