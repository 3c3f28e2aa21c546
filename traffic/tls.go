package traffic

import "fmt"

// TLS is how encrypted flows of the sample are seen into: splitd stands in for the
// service, with the service's own certificates, and opens them again to the backends.
// The zero value sees into none: they are opaque.
type TLS struct {
	// Certificates are the service's own; which one a client gets the name decides that
	// it asks for (SNI, RFC 6066, section 3). Of several that cover it, or of all where it asks for
	// none, it is the one whose key the primary shows, else the first that the client can take. A
	// flow whose name none covers is not seen into.
	Certificates []Certificate `json:"certificates,omitempty"`
	// ToPrimary and ToCandidate say whose certificates are good enough.
	ToPrimary   Trust `json:"to_primary,omitzero"`
	ToCandidate Trust `json:"to_candidate,omitzero"`
	// AllowAES128 has flows of TLS 1.3 seen into also where the primary takes 256 bits and the
	// client may get 128: which suite of TLS 1.3 is taken crypto/tls lets nobody say.
	AllowAES128 bool `json:"allow_aes128,omitempty"`
}

// On says whether encrypted flows are seen into.
func (t TLS) On() bool { return len(t.Certificates) > 0 }

// Primary is ToPrimary, and Candidate ToCandidate. Who takes any certificate tells what is wrong
// with it by the roots of this host, and by those, too, that the user has named for the other:
// two servers of one private authority do not differ in that.
func (t TLS) Primary() Trust { return t.ToPrimary.beside(t.ToCandidate) }

// Candidate is as Primary says.
func (t TLS) Candidate() Trust { return t.ToCandidate.beside(t.ToPrimary) }

func (t Trust) beside(other Trust) Trust {
	if t.Report {
		t.CA = other.CA
	}
	return t
}

// Certificate names the files, in PEM, of a certificate with its chain, and of its
// private key.
type Certificate struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Trust is what the certificate of a backend has to be. Exactly one of System, CA, Pins
// and Report is said.
type Trust struct {
	// System are the roots that this host trusts.
	System bool `json:"system,omitempty"`
	// CA is a file of roots, in PEM.
	CA string `json:"ca,omitempty"`
	// Pins are keys, one of which its certificate has: SHA-256 of the
	// SubjectPublicKeyInfo in base64 (RFC 7469, section 2.4). Neither name nor time matter.
	Pins []string `json:"pins,omitempty"`
	// Report takes any, and has what is wrong with it reported.
	Report bool `json:"report,omitempty"`
	// Name is what the certificate has to be of, and what the backend is asked for, where
	// the client has asked for none; empty: the client's, and of who asks for none one that
	// the service's certificate is of. With System and CA alone.
	Name string `json:"name,omitempty"`
}

// String says in words what a certificate has to be: "of a root that this host trusts".
func (t Trust) String() string {
	text := "whatever it shows (what is wrong with it is reported)"
	switch {
	case t.System:
		text = "of a root that this host trusts"
	case t.CA != "":
		text = fmt.Sprintf("of a root in %q", t.CA)
	case len(t.Pins) > 0:
		return fmt.Sprintf("one with a pinned key (of %d)", len(t.Pins))
	}
	if t.Name != "" {
		text += ", and of " + t.Name
	}
	return text
}
