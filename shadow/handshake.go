package shadow

import (
	"encoding/json"
	"time"
)

// A Handshake is what became of a TLS handshake of a flow with one of its servers. It holds
// no secret.
type Handshake struct {
	// ServerName, Protocols, Least, Most and Ciphers are what the client has asked for, as far
	// as the server was asked for the same: SNI, ALPN in the client's order, versions, and
	// cipher suites below TLS 1.3. The numbers are those of the registry of IANA, as in
	// crypto/tls.
	ServerName  string `json:"server_name,omitempty"`
	Protocols   ALPN   `json:"protocols,omitempty"`
	Least, Most uint16
	Ciphers     []uint16 `json:"ciphers,omitempty"`

	// Version, Cipher and Protocol are what was agreed upon; Protocol is empty without ALPN.
	Version  uint16 `json:"version,omitempty"`
	Cipher   uint16 `json:"cipher,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Resumed  bool   `json:"resumed,omitempty"`

	// Certificate is what the server has shown.
	Certificate Shown `json:"certificate,omitzero"`

	// Failed says why there is none; empty: it has succeeded.
	Failed string `json:"failed,omitempty"`
	// Began and Ended are when.
	Began time.Time `json:"began,omitzero"`
	Ended time.Time `json:"ended,omitzero"`
}

// ALPN are names of protocols, which may be any bytes (RFC 7301, section 3.1): in JSON they are in
// base64.
type ALPN []string

// MarshalJSON implements [json.Marshaler].
func (a ALPN) MarshalJSON() ([]byte, error) {
	names := make([][]byte, len(a))
	for i, name := range a {
		names[i] = []byte(name)
	}
	return json.Marshal(names)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (a *ALPN) UnmarshalJSON(text []byte) error {
	var names [][]byte
	if err := json.Unmarshal(text, &names); err != nil {
		return err
	}
	*a = nil
	for _, name := range names {
		*a = append(*a, string(name))
	}
	return nil
}

// Size is about how many bytes it takes.
func (h Handshake) Size() int {
	const fixed = 256 // without what is behind its pointers
	c := h.Certificate
	n := fixed + len(h.ServerName) + 2*len(h.Ciphers) + len(h.Failed) + len(c.Issuer) + len(c.Key) + len(c.Kind) + len(c.Distrust)
	for _, names := range [...][]string{h.Protocols, c.Names} {
		for _, name := range names {
			n += 16 + len(name)
		}
	}
	return n
}

// Shown is the certificate that a server has shown.
type Shown struct {
	// Names are those that it is of, sorted: DNS names and addresses.
	Names  []string  `json:"names,omitempty"`
	Issuer string    `json:"issuer,omitempty"`
	Before time.Time `json:"not_before,omitzero"`
	After  time.Time `json:"not_after,omitzero"`
	// Key is the SHA-256 of its SubjectPublicKeyInfo in base64 (RFC 7469, section 2.4).
	Key string `json:"key,omitempty"`
	// Kind is what key that is, as "ECDSA P-256" or "RSA 2048".
	Kind string `json:"kind,omitempty"`
	// Distrust says why it would not be trusted, where anything is taken (traffic.Trust.Report);
	// empty: it is.
	Distrust string `json:"distrust,omitempty"`
}

// RenewBy is when it should have been renewed: two weeks before its end (Let's Encrypt's are
// 30 days before), or, where it lives for days, after two thirds of its life.
func (s Shown) RenewBy() time.Time {
	const most = 14 * 24 * time.Hour
	return s.After.Add(-min(most, s.After.Sub(s.Before)/3))
}
