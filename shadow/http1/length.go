package http1

import (
	"strconv"
	"strings"
)

// A length is how a message says where its body ends.
type length struct {
	chunked bool
	close   bool  // with the connection
	fixed   int64 // else
}

// requestLength is the length of a request's body (RFC 9112, 6.3). What servers
// are known to read differently, and requests are smuggled with, is a fault.
func requestLength(h *head, at int64) (length, *fault) {
	if len(h.all("host")) > 1 {
		return length{}, broken(at, "more than one Host")
	}
	l, ok, err := declared(h, at)
	if err != nil || ok {
		return l, err
	}
	return length{}, nil
}

// replyLength is the length of a reply's body to a request of this method.
func replyLength(h *head, method string, at int64) (length, *fault) {
	if method == "HEAD" || h.status < 200 || h.status == 204 || h.status == 304 {
		return length{}, nil // whatever its headers say
	}
	l, ok, err := declared(h, at)
	if err != nil || ok {
		return l, err
	}
	return length{close: true}, nil
}

// declared is what the headers say of the length, if anything.
func declared(h *head, at int64) (l length, ok bool, err *fault) {
	codings, lengths := h.all("transfer-encoding"), h.all("content-length")
	switch {
	case len(codings) > 0 && len(lengths) > 0:
		return l, false, broken(at, "both Content-Length and Transfer-Encoding")
	case len(codings) > 0 && h.minor == 0:
		return l, false, broken(at, "Transfer-Encoding in HTTP/1.0")
	case len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return l, false, broken(at, "Transfer-Encoding other than chunked")
	case len(codings) == 1:
		return length{chunked: true}, true, nil
	case len(lengths) == 0:
		return l, false, nil
	}
	for _, text := range lengths {
		if text != lengths[0] {
			return l, false, broken(at, "two different Content-Lengths")
		}
	}
	if l.fixed, ok = digits(lengths[0], 10); !ok {
		return l, false, broken(at, "Content-Length that is no number")
	}
	return l, true, nil
}

// digits reads a number of nothing but digits: ParseInt takes signs and
// underscores too.
func digits(text string, base int) (int64, bool) {
	for i := range len(text) {
		c := text[i] | 0x20
		if (c < '0' || c > '9') && (base == 10 || c < 'a' || c > 'f') || text[i] < '0' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(text, base, 64)
	return n, err == nil
}
