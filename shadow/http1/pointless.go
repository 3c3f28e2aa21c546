package http1

import (
	"fmt"
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// Pointless says why a rule excuses nothing, empty when it may excuse something: a
// path that is none, or what is not compared anyway.
func Pointless(rule shadow.Ignore) string {
	method, behind, _ := strings.Cut(rule.Path, " ")
	header := strings.TrimPrefix(strings.TrimPrefix(rule.Path, "header "), "trailer ")
	if rule.Endpoint == shadow.Handshaken || rule.Endpoint == "" && rule.MayMatch(shadow.SecuredPaths()...) {
		return shadow.PointlessSecured(rule)
	}
	switch {
	case isKnown(method) && strings.HasPrefix(behind, "/"):
		return fmt.Sprintf("no effect: %q is an endpoint and no path: write \"%s %s | *\" for all of it", rule.Path, rule.Predicate, rule.Path)
	case !rule.MayMatch("class", "status", "version", "interim", "connection", "coding", "validator", "header ", "trailer ", "cookie ", "body kind", "body bytes", "body text", "body rest", "body $", "body <"):
		return fmt.Sprintf("no effect: %q is no path of protocol http: those are class, status, version, interim, connection, coding, validator, header NAME, trailer NAME, cookie NAME, "+
			"body kind, body $.NAME, body text, body <NAME>, body bytes", rule.Path)
	case rule.Endpoint != "" && !strings.ContainsAny(rule.Endpoint, "/*"):
		return fmt.Sprintf("no effect: %q is no endpoint of protocol http: write a method and a path, such as GET /users/*", rule.Endpoint)
	case header != rule.Path && slices.Contains(personal(), header):
		return fmt.Sprintf("no effect: what %s says is each server's own, and not compared anyway", rule.Path)
	case header != rule.Path && unnamed(header):
		return fmt.Sprintf("no effect: %s is not compared by itself, but as what it says of connection, cookies or body", rule.Path)
	case rule.Predicate == shadow.Tolerance && !isNumeric(rule.Path):
		return fmt.Sprintf("no effect: %s is compared as a word, not as a number: write ignore or shape", rule.Path)
	}
	return ""
}

// isNumeric says whether what stands at a path may be a number or a time. Of headers
// that are dates or validators only what they mean is compared.
func isNumeric(path string) bool {
	words := shadow.Ignore{Path: path}
	switch {
	case strings.Contains(path, "*"):
		return true
	case words.MayMatch("class", "version", "connection", "coding", "validator", "cookie ", "body kind", "body bytes"):
		return false
	}
	name := strings.TrimPrefix(strings.TrimPrefix(path, "header "), "trailer ")
	return !slices.Contains([]string{"date", "last-modified", "expires", "etag", "content-type", "location", "content-location"}, name)
}

// Pointless says why it allows nothing, empty when it may: a method that is sent
// anyway, or a * that is taken as it stands.
func (a Allow) Pointless() string {
	segment := func(s string) bool { return strings.Contains(s, "*") && s != "*" && s != "**" }
	switch {
	case isSafe(a.Method):
		return "no effect: GET, HEAD and OPTIONS are sent anyway"
	case strings.Contains(a.Method, "*"):
		return fmt.Sprintf("no effect: the method is %q as it stands: write out each, as in \"POST %s\"", a.Method, a.Path)
	case slices.ContainsFunc(strings.Split(a.Path, "/"), segment):
		return "no effect: beside other letters * is taken as it stands: it is a whole segment, as in /api/*/query, or /** at the end all below"
	}
	return ""
}
