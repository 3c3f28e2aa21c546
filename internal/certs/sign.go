package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// Sign makes a certificate that says what of says, which it leaves as it is, of a key: a
// new one, ECDSA P-256, where key is nil. It is signed by another, that has its Leaf, or by
// itself where by is nil. What it returns has its Leaf, and nothing stands behind it.
func Sign(of *x509.Certificate, by *tls.Certificate, key crypto.Signer) (tls.Certificate, error) {
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
		}
	}
	if by == nil {
		by = &tls.Certificate{Leaf: of, PrivateKey: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, of, by.Leaf, key.Public(), by.PrivateKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// PEM is a certificate, and what stands behind it, as a file has them.
func PEM(c tls.Certificate) (text []byte) {
	for _, der := range c.Certificate {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

// KeyPEM is a certificate's key as a file has it.
func KeyPEM(c tls.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("write a key in PEM: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
