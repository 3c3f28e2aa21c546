package play

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/splitd/splitd/traffic"
)

// A report knows by drivers' words how much was encrypted.
func TestAReportSaysHowMuchWasEncryptedInEachProtocol(t *testing.T) {
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 64)
	mail := []turn{
		{"", "220 old.example ESMTP\r\n"},
		{"EHLO client.example\r\n", "250-old.example\r\n250 STARTTLS\r\n"},
		{"STARTTLS\r\n", "220 2.0.0 Ready\r\n"},
		{hello, "\x16\x03\x03"},
	}
	ready := mta(&strings.Builder{}, map[string]string{"EHLO": "250-new.example\r\n250 STARTTLS", "STARTTLS": "220 2.0.0 Ready"})
	silent := func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }
	const advice = "name the service's certificates in shadow.tls"
	implicit := []turn{{hello, "\x16\x03\x03"}}
	for name, test := range map[string]struct {
		candidate func(net.Conn)
		turns     []turn
	}{
		"smtp": {ready, mail}, "smtp from the first byte on": {ready, implicit}, "http": {silent, implicit}, "raw": {silent, implicit},
	} {
		protocol, _, _ := strings.Cut(name, " ")
		for _, seenInto := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := newStage(t, test.candidate).play(func(o *Options) {
						o.Split = mx(func(s *traffic.Split) {
							s.Protocol = protocol
							if seenInto {
								s.Shadow.TLS = traffic.TLS{Certificates: []traffic.Certificate{{Cert: "/c", Key: "/k"}}, ToPrimary: traffic.Trust{System: true}, ToCandidate: traffic.Trust{Report: true}}
							}
						})
					})
					tell(p, test.turns...)
					r := p.Report()
					if !seenInto && r.Encrypted != 1 || r.SeenInto != seenInto || strings.Contains(r.Summary, advice) == seenInto {
						t.Errorf("encrypted %d, seen into %v: %s\nnot compared: %+v", r.Encrypted, r.SeenInto, r.Summary, r.NotCompared)
					}
				})
			})
		}
	}
}
