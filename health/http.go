package health

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// responseMax bounds what is read of a response, headers and body.
const responseMax = 64 << 10

// checkHTTP asks for a path (RFC 9110) and wants a status 2xx or 3xx. It
// follows no redirect: where that leads is not the target's health.
func checkHTTP(ctx context.Context, t Target) Result {
	conn, result := open(ctx, t)
	if conn == nil {
		return result
	}
	defer func() { _ = conn.Close() }()
	path := cmp.Or(t.Health.Path, "/")
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: splitd\r\nAccept: */*\r\nConnection: close\r\n\r\n", path, hostHeader(t))
	if err != nil {
		return broken("send GET "+path, err, t)
	}
	limited := &io.LimitedReader{R: conn, N: responseMax}
	received := bufio.NewReader(limited)
	status, err := finalStatus(received)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		perhaps := ""
		if limited.N == responseMax { // as OpenSSL's server closes
			perhaps = perhapsTLS
		}
		return failed("GET %s: closed without a whole answer%s", path, perhaps)
	case isTimeout(err), isLocalFault(err):
		return broken("GET "+path, err, t)
	case err != nil:
		return failed("GET %s: %s", path, cause(err))
	case status.code == http.StatusBadRequest: // what nginx, Apache and Go answer who speaks in clear where they expect TLS
		return failed("GET %s: status %s%s", path, status.text, perhapsTLS)
	case status.code/100 != 2 && status.code/100 != 3:
		return failed("GET %s: status %s", path, status.text)
	}
	// A server that closes first keeps the closed connection on its side.
	_, _ = io.Copy(io.Discard, received)
	return passed()
}

type httpStatus struct {
	code int
	text string // "503 Service Unavailable"
}

// finalStatus reads the head of the response that is no interim one (RFC 9110
// section 15.2).
func finalStatus(r *bufio.Reader) (httpStatus, error) {
	for {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			return httpStatus{}, err
		}

		if response.StatusCode < 100 {
			return httpStatus{}, fmt.Errorf("status %s is none", response.Status)
		}
		if response.StatusCode >= 200 || response.StatusCode == http.StatusSwitchingProtocols {
			return httpStatus{response.StatusCode, response.Status}, nil
		}
	}
}

// hostHeader is the host that was given, else the address, with its port where
// that is not 80 (RFC 9110 section 7.2).
func hostHeader(t Target) string {
	switch {
	case t.Health.Host != "":
		return t.Health.Host
	case t.Port != 80:
		return net.JoinHostPort(t.Address.String(), strconv.Itoa(int(t.Port)))
	case t.Address.Is6():
		return "[" + t.Address.String() + "]"
	}
	return t.Address.String()
}
