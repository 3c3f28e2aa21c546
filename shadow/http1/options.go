package http1

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// Options are what an operator decides. The zero value is the default.
type Options struct {
	// Allow are the requests beyond GET, HEAD and OPTIONS that a candidate may have.
	Allow []Allow
	// PrimaryHosts and CandidateHosts are names, with ports where they have one, by
	// which each server calls itself in what it answers. That by which the client
	// has called it is always one.
	PrimaryHosts, CandidateHosts []string
	// LoopGuard is the name of a header that each request to the candidate gets;
	// requests that have it already are not sent. Empty is none: nothing is rewritten.
	LoopGuard string
}

// An Allow is a method that may be sent to paths of a pattern: * is one segment,
// ** at the end all that follow. The method [Upgraded] allows what a client says
// after 101 Switching Protocols.
type Allow struct{ Method, Path string }

// ParseAllow reads an Allow as people write it: "POST /search".
func ParseAllow(text string) (Allow, error) {
	method, path, ok := strings.Cut(strings.TrimSpace(text), " ")
	if !ok {
		return Allow{}, fmt.Errorf("allow %q: write a method and a path, such as \"POST /search\"", text)
	}
	a := Allow{method, strings.TrimSpace(path)}
	return a, Options{Allow: []Allow{a}}.Check()
}

// String writes it so that ParseAllow reads it back.
func (a Allow) String() string { return a.Method + " " + a.Path }

// Upgraded stands in an Allow for what follows an upgrade of the protocol.
const Upgraded = "UPGRADE"

// New makes the drivers of the flows of one split. They may be used at the same
// time, each by one goroutine: they share nothing but the names of endpoints.
func New(o Options) func(shadow.Session) shadow.Driver {
	names := newTemplates()
	return func(s shadow.Session) shadow.Driver { return newSession(o, names, s) }
}

// Check says what is wrong with the options.
func (o Options) Check() error {
	for _, a := range o.Allow {
		switch {
		case !isToken(a.Method) || strings.ToUpper(a.Method) != a.Method:
			return fmt.Errorf("allow %q: %q is no method: write one in capitals, such as POST, or %s", a, a.Method, Upgraded)
		case a.Method == "CONNECT":
			return fmt.Errorf("allow %q: a tunnel cannot be compared: leave it out", a)
		case !strings.HasPrefix(a.Path, "/") || isDevious(a.Path) || strings.ContainsAny(a.Path, " \t?#"):
			return fmt.Errorf("allow %q: %q is no path: write one from / on, without a query, with * for a segment and /** for all below", a, a.Path)
		case strings.Contains(strings.TrimSuffix(a.Path, "/**"), "**"):
			return fmt.Errorf("allow %q: ** stands at the end alone: write * for a segment", a)
		}
	}
	for _, host := range slices.Concat(o.PrimaryHosts, o.CandidateHosts) {
		if host == "" || strings.ContainsAny(host, "/ \t\r\n@") {
			return fmt.Errorf("host %q: write a name, with a port where it has one: example.org:8080", host)
		}
	}
	if o.LoopGuard != "" && !isToken(o.LoopGuard) {
		return fmt.Errorf("loop guard %q: it is no name of a header: write one such as X-Shadow", o.LoopGuard)
	}
	if slices.Contains(meaningful(), strings.ToLower(o.LoopGuard)) {
		return fmt.Errorf("loop guard %q: it means something to servers: write a name of your own, such as X-Shadow", o.LoopGuard)
	}
	return nil
}

// meaningful are headers that a server acts by when it finds them in a request: the
// first ones say where it ends.
func meaningful() []string {
	return []string{
		"content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect", "host",
		"authorization", "proxy-authorization", "cookie", "range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since",
		"content-encoding", "content-type", "accept-encoding", "forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
		"x-http-method", "x-http-method-override", "x-method-override",
	}
}

// Rule says what is written to a candidate, for plans and reports.
func (o Options) Rule() string {
	var b strings.Builder
	b.WriteString("http: GET, HEAD and OPTIONS")
	for _, a := range o.Allow {
		fmt.Fprintf(&b, ", %s", a)
	}
	b.WriteString("; no other method")
	return b.String()
}

// refuses says why a request may not be sent that may be taken for these methods,
// empty when it may. Nobody knows which of them a server goes by, so each has to be
// allowed.
func (o Options) refuses(h *head, methods []string) string {
	if o.LoopGuard != "" && h.has(strings.ToLower(o.LoopGuard)) {
		return "it has been through a shadow already: it has " + o.LoopGuard
	}
	path := pathOf(h.target)
	for _, method := range methods {
		if !isSafe(method) && !o.allows(method, path) {
			return shown(method) + " is not allowed for its path"
		}
	}
	return ""
}

// isSafe knows the methods that change nothing (RFC 9110, 9.2.1) but TRACE, which
// echoes what it gets.
func isSafe(method string) bool {
	return method == "GET" || method == "HEAD" || method == "OPTIONS"
}

func (o Options) allows(method, path string) bool {
	if isDevious(path) {
		return false
	}
	return slices.ContainsFunc(o.Allow, func(a Allow) bool { return a.Method == method && matches(a.Path, path) })
}

// isDevious says whether servers may take a path for another one than it looks
// like: an allowed POST /api/../admin is none of /api.
func isDevious(path string) bool {
	lower := strings.ToLower(path)
	for _, s := range [...]string{"//", "\\", "%2e", "%2f", "%5c", "%25", ";"} {
		if strings.Contains(lower, s) {
			return true
		}
	}
	return slices.ContainsFunc(strings.Split(path, "/"), func(s string) bool { return s == "." || s == ".." })
}

func matches(pattern, path string) bool {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	for i, segment := range want {
		switch {
		case i >= len(have):
			return false
		case segment == "**" && i == len(want)-1:
			return true
		case segment != "*" && segment != have[i]:
			return false
		}
	}
	return len(want) == len(have)
}

// pathOf is the path in any form of a request's target (RFC 9112, 3.2).
func pathOf(target string) string {
	target, _, _ = strings.Cut(target, "?")
	target, _, _ = strings.Cut(target, "#")
	if _, rest, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		_, path, _ := strings.Cut(rest, "/")
		return "/" + path
	}
	return cmp.Or(target, "/")
}
