package http1

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// A fault is why the rest of a direction cannot be read, and at which byte of it.
type fault struct {
	verdict shadow.Verdict
	reason  string
	at      int64
}

func (f *fault) String() string { return fmt.Sprintf("%s at byte %d", f.reason, f.at) }

func broken(at int64, reason string) *fault { return &fault{shadow.Opaque, reason, at} }

// A header is one field line. The name is in lower case.
type header struct{ name, value string }

// A head is all that stands before the body of a message.
type head struct {
	method, target string // of a request
	status         int    // of a reply
	minor          int    // of the version: HTTP/1.minor
	headers        []header
}

// all is what the lines of one name say, in their order.
func (h *head) all(name string) []string { return allOf(h.headers, name) }

func allOf(headers []header, name string) []string {
	var values []string
	for _, line := range headers {
		if line.name == name {
			values = append(values, line.value)
		}
	}
	return values
}

// first is what the first line of a name says, empty when there is none.
func (h *head) first(name string) string {
	for _, line := range h.headers {
		if line.name == name {
			return line.value
		}
	}
	return ""
}

func (h *head) has(name string) bool { return len(h.all(name)) > 0 }

// lists says whether a header that is a list of tokens has this one.
func (h *head) lists(name, token string) bool {
	for _, member := range members(h.all(name)) {
		if strings.EqualFold(member, token) {
			return true
		}
	}
	return false
}

// members are those of a list (RFC 9110, 5.6.1): commas within quotes are none.
func members(values []string) []string {
	var list []string
	for _, value := range values {
		for _, member := range splitQuoted(value, ',') {
			if member = strings.Trim(member, " \t"); member != "" {
				list = append(list, member)
			}
		}
	}
	return list
}

func splitQuoted(value string, by byte) []string {
	var parts []string
	quoted, from := false, 0
	for i := 0; i < len(value); i++ {
		switch {
		case quoted && value[i] == '\\':
			i++
		case value[i] == '"':
			quoted = !quoted
		case value[i] == by && !quoted:
			parts = append(parts, value[from:i])
			from = i + 1
		}
	}
	return append(parts, value[from:])
}

// persists says whether the connection stays open behind the message (RFC 9112,
// 9.3).
func (h *head) persists() bool {
	switch {
	case h.lists("connection", "close"):
		return false
	case h.minor >= 1:
		return true
	default:
		return h.lists("connection", "keep-alive")
	}
}

// requestLine reads METHOD SP TARGET SP HTTP/1.x (RFC 9112, 3).
func (h *head) requestLine(line string, at int64) *fault {
	parts := strings.Split(line, " ")
	if len(parts) == 3 && parts[2] == "HTTP/2.0" {
		return broken(at, "HTTP/2 preface")
	}
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" {
		return broken(at, "no request line of HTTP/1")
	}
	h.method, h.target = parts[0], parts[1]
	return h.version(parts[2], at+int64(len(line)-len(parts[2])))
}

// statusLine reads HTTP/1.x SP 3DIGIT SP REASON (RFC 9112, 4). Servers leave out the
// last space.
func (h *head) statusLine(line string, at int64) *fault {
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || status < 100 {
		return broken(at, "no status line of HTTP/1")
	}
	h.status = status
	return h.version(version, at)
}

func (h *head) version(text string, at int64) *fault {
	switch text {
	case "HTTP/1.0":
		h.minor = 0
	case "HTTP/1.1":
		h.minor = 1
	default:
		return broken(at, "no version 1.0 or 1.1 of HTTP")
	}
	return nil
}

// fieldLine reads NAME ":" VALUE (RFC 9112, 5), which neither is folded (5.2) nor
// has white space before its colon (5.1): recipients disagree about both.
func fieldLine(line string, at int64) (header, *fault) {
	if line[0] == ' ' || line[0] == '\t' {
		return header{}, broken(at, "folded header line")
	}
	name, value, ok := strings.Cut(line, ":")
	if !ok || !isToken(name) {
		return header{}, broken(at, "no name and colon of a header")
	}
	return header{strings.ToLower(name), strings.Trim(value, " \t")}, nil
}

func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenChar(s[i]) {
			return false
		}
	}
	return s != ""
}

// isTokenChar is tchar of RFC 9110, 5.6.2.
func isTokenChar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
