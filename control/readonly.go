package control

import (
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/splitd/splitd/control/api"
)

// ReadOnly is the reading half of the API for a TCP port: the changing routes
// are not in it, whoever asks. A request must name this host by IP address or
// as localhost, because a web page elsewhere can make a browser ask under a
// name of its own (DNS rebinding).
func ReadOnly(op Operator) http.Handler {
	h := &handlers{op: op, log: slog.New(slog.DiscardHandler), names: newNames()}
	return guarded(recovering(h.log, mux(h.reads())))
}

func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !namesUs(r.Host) {
			writeError(w, http.StatusMisdirectedRequest, &api.Error{
				Code:    api.CodeForbidden,
				Message: "ask by IP address or as localhost: a host name could be a web page's trick (DNS rebinding)",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// namesUs says whether a Host header is an IP address or localhost.
func namesUs(host string) bool {
	if name, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}
