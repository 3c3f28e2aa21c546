package terminator

import (
	"crypto/tls"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/shadow"
)

// judged says why a flow has to be passed through; "" is that it can be seen into. known is
// what is known of the primary for it. It is asked once for each flow.
func (t *Terminator) judged(h *hello, known finding) string {
	if reason := known.reason; reason != "" {
		return reason
	}
	if t.plain(known.handshake) {
		return http2
	}
	config, reason := t.answers(h, known.handshake)
	if reason == "" && !t.accepted.tries(&config.Certificates[0]) {
		return refused
	}
	return reason
}

// hopeless says what of a ClientHello alone has a flow passed through.
func hopeless(h *hello) string {
	switch {
	case h.has(extensionEarlyData):
		return earlyData
	case slices.Contains(h.asked.Protocols, "acme-tls/1"): // RFC 8737
		return acmeTLS
	case h.asked.Least == 0, h.unspeakable():
		return unspoken
	case slices.Contains(h.info.CipherSuites, tls.TLS_FALLBACK_SCSV): // RFC 7507: whether it needs to is for the primary to say
		return unspoken
	}
	return ""
}

// plain says that what is said inside cannot be read by who plays the split's flows.
func (t *Terminator) plain(h shadow.Handshake) bool {
	return t.protocol.unread != nil && t.protocol.unread(h.Protocol)
}

// answers is how the client is answered, as the primary has answered: with its version, its
// protocol, and its cipher suite, or, where our key is of another kind, one that is not weaker.
// Else it says why not. Suites of TLS 1.3 cannot be chosen in crypto/tls: the client has to offer the
// one that the primary has agreed to, or the primary could refuse all that this client offers.
func (t *Terminator) answers(h *hello, agreed shadow.Handshake) (*tls.Config, string) {
	pairs := t.certificates.of(h.asked.ServerName, agreed.Certificate.Key)
	if len(pairs) == 0 {
		return nil, uncovered
	}
	if pairs = t.inTime(pairs, agreed.Certificate); len(pairs) == 0 {
		return nil, outOfTime
	}
	if pairs = t.believed(pairs, agreed.Certificate); len(pairs) == 0 {
		return nil, disbelieved
	}
	if agreed.Version == tls.VersionTLS13 {
		switch {
		case !slices.Contains(h.info.CipherSuites, agreed.Cipher):
			return nil, unspoken
		case t.halves(h, agreed.Cipher):
			return nil, halfKey
		}
	}
	for _, allowed := range [][]uint16{{agreed.Cipher}, noWeaker(agreed.Cipher, h.asked.Ciphers)} {
		config := &tls.Config{MinVersion: agreed.Version, MaxVersion: agreed.Version, CipherSuites: allowed, Time: t.now}
		info := h.as(config)
		if info == nil {
			break
		}
		info.ServerName = "" // that is judged
		for _, p := range pairs {
			if info.SupportsCertificate(&p.certificate) != nil {
				continue
			}
			config.Certificates = []tls.Certificate{p.certificate}
			if agreed.Protocol != "" {
				config.NextProtos = []string{agreed.Protocol}
			}
			t.tickets.give(config, t.split)
			return config, ""
		}
	}
	return nil, unspoken
}

// halves says that the client may get 128 bits where the primary has taken 256.
func (t *Terminator) halves(h *hello, taken uint16) bool {
	return !t.allowAES128 && taken != tls.TLS_AES_128_GCM_SHA256 && slices.Contains(h.info.CipherSuites, tls.TLS_AES_128_GCM_SHA256)
}

// inTime leaves out who is out of its time while the primary's certificate is not: the primary
// has a new one, which was not brought here. Who has none but old ones is no worse with ours.
func (t *Terminator) inTime(pairs []*pair, primary shadow.Shown) []*pair {
	now := t.now()
	is := func(from, to time.Time) bool { return !now.Before(from) && !now.After(to) }
	if !is(primary.Before, primary.After) {
		return pairs
	}
	return slices.DeleteFunc(pairs, func(p *pair) bool { return !is(p.certificate.Leaf.NotBefore, p.certificate.Leaf.NotAfter) })
}

// believed leaves out who would not be trusted by whom the primary is. Where nobody trusts the
// primary's certificate, or it is known by its key, nothing can be told.
func (t *Terminator) believed(pairs []*pair, primary shadow.Shown) []*pair {
	if primary.Distrust != "" || len(t.trust.Pins) > 0 {
		return pairs
	}
	return slices.DeleteFunc(pairs, func(p *pair) bool { return t.accepted.distrust(&p.certificate) != nil })
}

// noWeaker are those of the offered suites that are in nothing weaker than another one: forward
// secrecy, authenticated encryption, length of the key.
func noWeaker(than uint16, offered []uint16) []uint16 {
	least := strengthOf(than)
	weaker := func(id uint16) bool {
		s := strengthOf(id)
		return s.forward < least.forward || s.authenticated < least.authenticated || s.bits < least.bits || s.insecure > least.insecure
	}
	return slices.DeleteFunc(slices.Clone(offered), weaker)
}

// strength is of a cipher suite what two can be compared by.
type strength struct{ forward, authenticated, bits, insecure int }

func strengthOf(id uint16) strength {
	name := tls.CipherSuiteName(id)
	has := func(words ...string) int {
		if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(name, w) }) {
			return 1
		}
		return 0
	}
	s := strength{
		forward: has("_ECDHE_"), authenticated: has("_GCM_", "_POLY1305"), bits: 128,
		insecure: has("_RC4_", "_3DES_"),
	}
	switch {
	case has("_AES_256_", "_CHACHA20_") == 1:
		s.bits = 256
	case has("_3DES_") == 1:
		s.bits = 112
	}
	return s
}
