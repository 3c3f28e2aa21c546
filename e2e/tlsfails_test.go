package e2e

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A host makes what serves each connection to a candidate.
type host func(*vault) func(net.Conn)

// at is one that needs nothing of the vault.
func at(serve func(net.Conn)) host { return func(*vault) func(net.Conn) { return serve } }

// behindSTARTTLS is a mail server that greets, offers STARTTLS and agrees to it, and then does
// what another host does at once.
func behindSTARTTLS(secure host) host {
	return func(v *vault) func(net.Conn) {
		return (&mailer{name: "old.example", tls: &tls.Config{}, secure: secure(v)}).serve
	}
}

// The hosts that fail in a handshake.
var (
	hangs     = at(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	hangsUp   = at(func(c net.Conn) { hear(c) })
	noTLS     = at(func(c net.Conn) { hear(c); _, _ = io.WriteString(c, "554 5.7.0 no TLS here\r\n") })
	crawls    = at(crawl)
	isExpired = host(func(v *vault) func(net.Conn) {
		config := &tls.Config{Certificates: []tls.Certificate{v.issuer.issue(-time.Hour, "shop.example", "mx.example")}}
		return v.inside(config, func(c net.Conn) { _ = c.(*tls.Conn).Handshake() })
	})
	hangsUpBehind = host(func(v *vault) func(net.Conn) {
		return v.inside(v.backend(), func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<14)); _ = c.Close() })
	})
)

// hear takes a record from a client: its ClientHello, of which nothing is left that would
// have the kernel reset the connection where it is closed.
func hear(c net.Conn) {
	var head [5]byte
	if _, err := io.ReadFull(c, head[:]); err == nil {
		_, _ = io.CopyN(io.Discard, c, int64(head[3])<<8|int64(head[4]))
	}
}

// crawl begins a long record of a handshake, a byte a second and for longer than anybody's
// patience here, and hangs up.
func crawl(c net.Conn) {
	hear(c)
	pace := time.NewTicker(time.Second)
	defer pace.Stop()
	for _, b := range []byte{22, 3, 3, 64, 0, 2, 0, 63, 252, 3, 3, 0} {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		<-pace.C
	}
}

// TestANewHostThatFailsInTLSCostsNoClientAnything has hosts fail before, in and behind the
// handshake, which a mail server is asked for in clear. What is reported is why, and of no other
// exchange than the one that has failed; what is behind it in a session of mail is not compared.
func TestANewHostThatFailsInTLSCostsNoClientAnything(t *testing.T) {
	const (
		fails   = "TLS: the TLS handshake fails: "
		garbage = fails + "first record does not look like a TLS handshake"
		expired = fails + "its certificate is not trusted: it has expired"
		late    = "TLS: there was no TLS handshake: timed out"
		unasked = "GET /a: no answer: no TLS with it"
	)
	for name, test := range map[string]struct {
		web, mx host
		ofWeb   []string
		ofMX    string
	}{
		"dead":                    {nil, nil, []string{"GET /a: no answer: refused", "TLS: there was no TLS handshake: refused"}, "greeting: the candidate refused the connection"},
		"hangs":                   {hangs, hangs, []string{"GET /a: no answer: timed out", late}, "greeting: the candidate did not answer in time"},
		"speaks another protocol": {noTLS, at(func(c net.Conn) { _, _ = io.WriteString(c, "no\r\n") }), []string{unasked, garbage}, "greeting: candidate: the line at byte N is no reply of SMTP"},
		"hangs in it":             {hangs, behindSTARTTLS(hangs), []string{"GET /a: no answer: timed out", late}, "TLS: the candidate did not answer in time"},
		"says a byte a second":    {crawls, behindSTARTTLS(crawls), []string{"GET /a: no answer: timed out", late}, "TLS: the candidate did not answer in time"},
		"hangs up in it":          {hangsUp, behindSTARTTLS(hangsUp), []string{unasked, fails + "EOF"}, fails + "EOF"},
		"speaks no TLS":           {noTLS, behindSTARTTLS(noTLS), []string{unasked, garbage}, garbage},
		"its certificate is old":  {isExpired, behindSTARTTLS(isExpired), []string{unasked, expired}, expired},
		"hangs up behind it":      {hangsUpBehind, behindSTARTTLS(hangsUpBehind), []string{"GET /a: no answer: closed"}, "EHLO: the candidate closed"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t, test.web, test.mx)
			v.isSeen()
			for range 20 {
				if body, _ := v.browse("10.1.0.1:8443", "/a"); body != `{"price":100}` {
					t.Fatalf("a client was told %s", body)
				}
				if told, _ := v.post(); !strings.Contains(strings.Join(told, "\n"), "queued") {
					t.Fatalf("a client was told\n%s", told)
				}
			}
			for split, want := range map[string][]string{"web": test.ofWeb, "mx": {test.ofMX}} {
				var r shadowReport
				v.eventually(split+": it is reported", func() bool {
					r = v.shadowed(split)
					return r.Verdict == "differs" && r.Coverage["candidate_error"] > 0
				})
				if diff := cmp.Diff(want, r.failures()); diff != "" {
					t.Errorf("what has failed of %s (-want +got):\n%s\n%+v", split, diff, r)
				}
			}
		})
	}
}

// failures are the differences by their exchanges and by what there was in the place of a
// reply; where there was another one, by that.
func (r shadowReport) failures() (all []string) {
	for _, d := range r.Found {
		if d.Kind != "availability" {
			d.Got = d.Field + " is " + d.Got
		}
		all = append(all, d.Endpoint+": "+d.Got)
	}
	return slices.Sorted(slices.Values(all))
}
