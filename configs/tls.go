package configs

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/splitd/splitd/traffic"
)

const (
	certificatesMax = 64
	pinsMax         = 64
	pinBytes        = 32 // of SHA-256

	wordSystem, wordAccept = "system", "accept"
)

// choices is what may be said of whose certificate is good enough.
const choices = "system (of a root that this host trusts), {ca: FILE} (of a root in that file), {pins: [BASE64, ...]} (with one of these keys), or accept (any; what is wrong with it is reported)"

// tlsDraft is what a file says of TLS, with its places.
type tlsDraft struct {
	given map[string]value
	// whole says that each of the certificates could be read.
	whole bool
	first map[traffic.Certificate]spot
	files []FileAt
}

// readTLS reads how encrypted flows are seen into.
func (d *draft) readTLS(t *table) {
	t.inside("tls", func(t *table) {
		d.tls = tlsDraft{given: t.given, whole: true, first: map[traffic.Certificate]spot{}}
		is := &d.split.Shadow.TLS
		if v, ok := t.take("certificates"); ok {
			d.tls.whole = eachOrNone(v, certificatesMax, d.readCertificate)
		}
		is.ToPrimary = d.readTrust(t, "to_primary")
		is.ToCandidate = d.readTrust(t, "to_candidate")
		if v, ok := t.take("allow_aes128"); ok {
			is.AllowAES128, _ = v.boolean()
		}
	})
}

// readCertificate reads a pair of files.
func (d *draft) readCertificate(v value) bool {
	t, ok := v.table()
	if !ok {
		return false
	}
	cert, ok1 := t.need("cert", "the file of the certificate and its chain, in PEM")
	key, ok2 := t.need("key", "the file of its private key, in PEM")
	t.close()
	var pair traffic.Certificate
	if ok1 {
		pair.Cert, ok1 = cert.checkedText(checkFile)
	}
	if ok2 {
		pair.Key, ok2 = key.checkedText(checkFile)
	}
	if !ok1 || !ok2 {
		return false
	}
	if at, twice := d.tls.first[pair]; twice {
		v.refuse("is there already: %s", at)
		return false
	}
	d.tls.first[pair] = v.spot
	d.split.Shadow.TLS.Certificates = append(d.split.Shadow.TLS.Certificates, pair)
	d.tls.files = append(d.tls.files, FileAt{Certificate: pair, At: cert.place(), KeyAt: key.place()})
	return true
}

// checkFile wants a path that means the same to whoever reads it.
func checkFile(text string) error {
	switch {
	case strings.ContainsRune(text, 0):
		return errors.New("holds a zero byte")
	case !filepath.IsAbs(text):
		return fmt.Errorf("%q is not an absolute path", text)
	}
	return nil
}

// readTrust reads whose certificate is good enough; what is not said is the zero value.
func (d *draft) readTrust(t *table, key string) (trust traffic.Trust) {
	v, given := t.take(key)
	if !given || v.saysNothing() {
		return trust
	}
	if v.node.Kind == yaml.MappingNode {
		return d.readTrustTable(key, v)
	}
	switch text, ok := v.scalar("a word or a mapping: " + choices); {
	case !ok:
	case text == wordSystem:
		trust.System = true
	case text == wordAccept:
		trust.Report = true
	default:
		v.refuse("%q is not known: write %s", text, choices)
	}
	return trust
}

// saysNothing says that a text is empty, or nothing is written.
func (v value) saysNothing() bool {
	return v.node.Kind == yaml.ScalarNode && v.node.Value == "" && !v.refused()
}

func (d *draft) readTrustTable(key string, v value) (trust traffic.Trust) {
	t, ok := v.table()
	if !ok {
		return trust
	}
	said := 0
	if v, ok := t.take("system"); ok {
		said++
		if trust.System, ok = v.boolean(); ok && !trust.System {
			v.refuse("false says nothing: write %s", choices)
		}
	}
	if v, ok := t.take("ca"); ok {
		said++
		if trust.CA, ok = v.checkedText(checkFile); ok {
			d.tls.files = append(d.tls.files, FileAt{CA: trust.CA, At: v.place()})
		}
	}
	pins, pinned := t.given["pins"]
	trust.Pins = t.eachOnce("pins", pinsMax, parsePin)
	if pinned {
		said++
		if items, ok := pins.list(); ok && len(items) == 0 {
			pins.refuse("empty: name a key")
		}
	}
	if v, ok := t.take("name"); ok {
		trust.Name, _ = v.checkedText(checkServerName)
		if pinned && said == 1 {
			v.note("unused with pins: the key alone decides")
			trust.Name = ""
		}
	}
	t.close()
	if said != 1 && !t.merged {
		more := ""
		if _, given := t.given[wordAccept]; given {
			more = "; accept is written alone: " + key + ": accept"
		} else if _, named := t.given["name"]; named && said == 0 {
			more = "; name goes with system: true or ca: FILE"
		}
		t.refuse("must have exactly one of system, ca and pins%s", more)
	}
	return trust
}

// makesPin is the command that writes the hash of the key of a certificate.
const makesPin = "`openssl x509 -in CERT -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64` makes it"

// parsePin reads the hash of a key as makesPin writes it.
func parsePin(text string) (string, error) {
	sum, err := base64.StdEncoding.DecodeString(text)
	if err == nil && len(sum) == pinBytes {
		return base64.StdEncoding.EncodeToString(sum), nil
	}
	why := ", which has 44 characters"
	if inHex, err := hex.DecodeString(text); err == nil && len(inHex) == pinBytes {
		why = ", but in hex"
	} else if strings.HasPrefix(text, "sha256/") {
		why = " alone: write it without sha256/ or sha256// before it" // as browsers and curl write it
	}
	return "", fmt.Errorf("%q is not the SHA-256 of a key in base64%s: %s", text, why, makesPin)
}

// checkServerName wants a name that a certificate can be of: a host's or an address.
func checkServerName(text string) error {
	if _, err := netip.ParseAddr(text); err == nil {
		return nil
	}
	const nameMax = 253 // RFC 1035, section 2.3.4
	if text == "" || len(text) > nameMax || strings.ContainsFunc(text, func(r rune) bool { return notInHost(r) || strings.ContainsRune(":[]", r) }) {
		return fmt.Errorf("%q is not the name of a host", text)
	}
	return nil
}

// judgeTLS wants it to be said whose certificates are good enough, where encrypted flows
// are seen into: no default would be right, and a wrong one would send mail to a stranger.
func (d *draft) judgeTLS() {
	is := &d.split.Shadow.TLS
	for _, key := range [...]string{"to_primary", "to_candidate"} {
		v, given := d.tls.given[key]
		said := given && !v.saysNothing()
		switch {
		case !is.On() && said && d.tls.whole:
			v.note("unused without certificates: encrypted flows are not seen into")
		case is.On() && !said:
			at := d.shadow.given["tls"].spot
			at.path += "." + key
			if given {
				at = v.spot
			}
			at.refuse("missing: whose certificate is good enough: write %s", choices)
		}
	}
	if v, given := d.tls.given["allow_aes128"]; given && is.AllowAES128 && !is.On() && d.tls.whole {
		v.note("unused without certificates: encrypted flows are not seen into")
	}
	if !is.On() {
		*is, d.tls.files = traffic.TLS{}, nil
	}
	for i := range d.tls.files {
		d.tls.files[i].Split = d.split.Name
	}
}
