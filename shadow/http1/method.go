package http1

import (
	"net/url"
	"strings"
)

// methods are all that a request may be taken for: those that it names beside the
// one of its line, which comes last. Some frameworks take the method from a header
// or from the query, and most servers do not.
func methods(h *head) []string {
	var all []string
	for _, line := range h.headers {
		if overrides(line.name) {
			all = append(all, listed(line.value)...)
		}
	}
	return append(append(all, queried(h.target)...), h.method)
}

// overrides says whether a header names another method. Who makes variables of
// headers takes _ for -.
func overrides(name string) bool {
	switch strings.ReplaceAll(name, "_", "-") {
	case "x-http-method-override", "x-http-method", "x-method-override":
		return true
	default:
		return false
	}
}

// listed are the methods that the value of an override names. Two lines may have
// become one on the way (RFC 9110, 5.3).
func listed(value string) []string {
	var all []string
	for method := range strings.SplitSeq(value, ",") {
		if method = strings.ToUpper(strings.TrimSpace(method)); method != "" {
			all = append(all, method)
		}
	}
	return all
}

// queried are the methods that the query names in its _method: WordPress, Laravel,
// Symfony and Spring read it there. PHP takes a dot or a bracket in a name for _.
func queried(target string) []string {
	_, query, _ := strings.Cut(target, "?")
	query, _, _ = strings.Cut(query, "#")
	var all []string
	for pair := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		name = strings.NewReplacer(".", "_", "[", "_").Replace(strings.TrimSpace(unescaped(name)))
		if strings.EqualFold(name, "_method") {
			all = append(all, listed(unescaped(value))...)
		}
	}
	return all
}

// unescaped is text of a query as it was meant, or as it stands where it is wrong.
func unescaped(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

// shown is a method as reasons name it: one that is not known may be any word of the
// client's.
func shown(method string) string {
	if isKnown(method) {
		return method
	}
	return "a method of its own"
}
