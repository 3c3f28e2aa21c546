package shadow

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"strings"
	"time"
)

// Handshaken is the endpoint of TLS handshakes, in all protocols.
const Handshaken = "TLS"

// Bounds of what is told of a certificate: what is beyond them is one value.
const (
	mostNames   = 100
	longestTold = 256
)

// Secured compares the handshakes of a flow with its servers: what they agreed upon with
// who asked both for the same, and what certificates they have shown. A server that has
// failed in it has not replied.
func Secured(primary, candidate Handshake, now time.Time) Exchange {
	x := Exchange{Endpoint: Handshaken, Safe: true, Request: primary.request()}
	x.Primary, x.Candidate = primary.reply(now), candidate.reply(now)
	switch {
	case primary.Failed != "":
		x.Verdict, x.Reason = PrimaryError, primary.fails()
	case candidate.Failed != "":
		x.Verdict, x.Reason = CandidateError, candidate.fails()
	case primary.Version == candidate.Version: // else the suites of the two cannot be the same
		x.Primary.Fields = append(x.Primary.Fields, primary.suite())
		x.Candidate.Fields = append(x.Candidate.Fields, candidate.suite())
	}
	return x
}

// SecuredNoise are the rules that are built in for handshakes: that the two certificates
// do not end at the same moment says nothing, when neither does soon.
func SecuredNoise() []Ignore {
	return []Ignore{{Endpoint: Handshaken, Path: "not_after", Predicate: Anything}}
}

// Unseen is the path of a rule by which it does not matter how many flows were inside TLS and not
// seen into.
const Unseen = "unseen"

// SecuredPaths are the paths of what Secured compares, as [Ignore.MayMatch] wants them, and
// Unseen.
func SecuredPaths() []string {
	return []string{"version", "cipher", "alpn", "name", "issuer", "key", "trust", "expiry", "not_after", Unseen}
}

// AcceptsUnseen says that a rule is the user's word that it does not matter what was not seen.
func (i Ignore) AcceptsUnseen() bool {
	return i.Predicate == Anything && i.Endpoint == Handshaken && i.Path == Unseen
}

// PointlessSecured says why a rule for handshakes excuses nothing, empty when it may
// excuse something.
func PointlessSecured(rule Ignore) string {
	if rule.Path == Unseen && !rule.AcceptsUnseen() {
		return fmt.Sprintf("no effect: that flows in TLS are not seen into is accepted by \"%s %s | %s\"", Anything, Handshaken, Unseen)
	}
	if rule.MayMatch(SecuredPaths()...) {
		return ""
	}
	return fmt.Sprintf("no effect: %q is no path of TLS: those are %s", rule.Path, strings.Join(SecuredPaths(), ", "))
}

// fails is why it has failed, in words.
func (h Handshake) fails() string {
	return "the TLS handshake fails: " + Clean(strings.TrimPrefix(h.Failed, "tls: "), longestTold)
}

// request is what the client has asked for.
func (h Handshake) request() []Field {
	return []Field{
		{Path: "name", Value: Clean(h.ServerName, longestTold)},
		{Path: "alpn", Value: Clean(strings.Join(h.Protocols, " "), longestTold), Plain: true},
		{Path: "versions", Value: versions(h.Least, h.Most), Plain: true},
	}
}

// versions are those from one to another; 0 is one that was not said.
func versions(least, most uint16) string {
	switch {
	case least == 0 && most == 0:
		return ""
	case least == 0:
		return "up to " + tls.VersionName(most)
	case most == 0:
		return tls.VersionName(least) + " and up"
	case least == most:
		return tls.VersionName(most)
	}
	return tls.VersionName(least) + " to " + tls.VersionName(most)
}

// reply is the handshake as a server's answer.
func (h Handshake) reply(now time.Time) Reply {
	r := Reply{Asked: h.Began, First: h.Ended, Last: h.Ended}
	if h.Failed != "" || h.Version == 0 {
		r.First, r.Last = time.Time{}, time.Time{}
		return r
	}
	c := h.Certificate
	add := func(path, value string, level Level) {
		r.Fields = append(r.Fields, Field{Path: path, Value: Clean(value, longestTold), Level: level, Plain: true, Set: path == "name"})
	}
	add("version", tls.VersionName(h.Version), Semantic)
	add("alpn", cmp.Or(h.Protocol, "none"), Semantic)
	for i, name := range c.Names {
		if i == mostNames {
			add("name", others(c.Names[i:]), Semantic)
			break
		}
		add("name", strings.ToLower(name), Semantic)
	}
	add("issuer", c.Issuer, Text)
	add("key", c.Kind, Text)
	add("trust", c.trust(), Semantic)
	add("expiry", c.expiry(now), Semantic)
	if !c.After.IsZero() {
		add("not_after", c.After.UTC().Format(time.RFC3339), Text)
	}
	return r
}

// others stands for names that are too many to be listed: they are the same where it is.
func others(names []string) string {
	of := sha256.Sum256([]byte(strings.ToLower(strings.Join(names, "\n"))))
	return fmt.Sprintf("and %d more (SHA-256 %x…)", len(names), of[:8])
}

// suite is the cipher suite: a matter of what is preferred, where both are good.
func (h Handshake) suite() Field {
	return Field{Path: "cipher", Value: tls.CipherSuiteName(h.Cipher), Level: Shape, Plain: true}
}

// trust says whether a certificate is trusted. Numbers in the reason, as the time of
// now, are not what tells one reason from another.
func (s Shown) trust() string {
	if s.Distrust == "" {
		return "trusted"
	}
	return "not trusted: " + MaskNumbers(strings.TrimPrefix(s.Distrust, "x509: "))
}

// expiry says whether a certificate is still of use, and for how long.
func (s Shown) expiry(now time.Time) string {
	switch {
	case s.After.IsZero():
		return "never"
	case !now.Before(s.After):
		return "expired"
	case now.Before(s.Before):
		return "not valid yet"
	case now.After(s.RenewBy()):
		return "expires soon"
	}
	return "valid"
}
