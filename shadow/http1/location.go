package http1

import (
	"net/url"
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// names are what a server calls itself, and how the client has come to it.
type names struct {
	hosts  []string // in lower case
	scheme string
	path   string // that was asked for: what is relative is relative to it
}

// itself stands for any name of the server.
const itself = "{host}"

// namesOf are the names of one of the servers.
func (e *exchange) namesOf(hosts []string) names {
	n := names{scheme: "http", path: pathOf(e.request.target)}
	if proto := strings.ToLower(e.request.first("x-forwarded-proto")); proto == "https" {
		n.scheme = proto
	}
	if host := e.request.first("host"); host != "" {
		n.hosts = append(n.hosts, bareHost(host))
	}
	for _, host := range hosts {
		n.hosts = append(n.hosts, bareHost(host))
	}
	return n
}

// bareHost is a host in lower case without a port that goes without saying.
func bareHost(host string) string {
	host = strings.ToLower(strings.TrimSpace(host))
	return strings.TrimSuffix(strings.TrimSuffix(host, ":80"), ":443")
}

func (n names) mappedHost(host string) string {
	if slices.Contains(n.hosts, bareHost(host)) {
		return itself
	}
	for _, name := range n.hosts { // without a port, as cookies have it
		if bare, _, ok := strings.Cut(name, ":"); ok && bare == bareHost(host) {
			return itself
		}
	}
	return host
}

// location is a reference as it is resolved (RFC 9110, 10.2.2), with the server's
// own names as one, and with the ids in its query masked.
func (n names) location(value string) string {
	base := &url.URL{Scheme: n.scheme, Host: itself, Path: n.path}
	ref, err := url.Parse(value)
	if err != nil {
		return value
	}
	if ref.Host != "" {
		ref.Host = n.mappedHost(ref.Host)
	}
	to := base.ResolveReference(ref)
	if to.Host == itself && to.Path == "" {
		to.Path = "/"
	}
	out := to.Scheme + "://" + to.Host + to.EscapedPath()
	if to.Opaque != "" || to.Host == "" {
		out = to.Scheme + ":" + to.Opaque + to.EscapedPath()
	}
	if to.RawQuery != "" {
		out += "?" + maskQuery(to.RawQuery)
	}
	if to.Fragment != "" {
		out += "#" + to.Fragment
	}
	return out
}

// maskQuery masks ids, and leaves the order, which some servers heed.
func maskQuery(query string) string {
	params := strings.Split(query, "&")
	for i, param := range params {
		name, value, _ := strings.Cut(param, "=")
		class := shadow.ClassOf(value)
		if isOne(class, shadow.ClassUUID, shadow.ClassHex, shadow.ClassToken, shadow.ClassEpoch, shadow.ClassTime) {
			params[i] = name + "=<" + string(class) + ">"
		}
	}
	return strings.Join(params, "&")
}

// mapped is text with the server's own names as one where they are in a URL.
func (n names) mapped(text string) string {
	for _, host := range n.hosts {
		text = strings.ReplaceAll(text, "://"+host, "://"+itself)
	}
	return text
}
