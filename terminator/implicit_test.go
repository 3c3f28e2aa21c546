package terminator

import (
	"crypto/tls"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

func TestAFlowInsideTLSIsSeenInto(t *testing.T) {
	a := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			theirs := a.sign(t, newKey(t), "a.test")
			s := newStand(t, a, set{protocol: "http", serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}, MaxVersion: version, NextProtos: []string{"http/1.1"}})})
			config := s.asks("a.test", "h2", "http/1.1")
			s.knows(config)
			answer, state, flow := s.through(config, "hello")
			if answer != "HELLO" || state.Version != version || state.NegotiatedProtocol != "http/1.1" {
				t.Errorf("answer %q in %s with %q", answer, tls.VersionName(state.Version), state.NegotiatedProtocol)
			}
			if sameKeys(state.PeerCertificates, theirs) {
				t.Error("the client was shown the primary's certificate")
			}
			if flow.err != nil || flow.end != "closed" || flow.opaque != "" || flow.fins != [2]bool{true, true} {
				t.Errorf("flow: %v, %q, %q, %v", flow.err, flow.end, flow.opaque, flow.fins)
			}
			if diff := cmp.Diff([]string{"client: hello", "primary: HELLO"}, flow.said); diff != "" {
				t.Error(diff)
			}
			h := flow.opened
			if h == nil {
				t.Fatal("no handshake was told")
			}
			got := shadow.Handshake{ServerName: h.ServerName, Protocols: h.Protocols, Least: h.Least, Most: h.Most, Version: h.Version, Protocol: h.Protocol}
			want := shadow.Handshake{ServerName: "a.test", Protocols: []string{"h2", "http/1.1"}, Least: tls.VersionTLS12, Most: tls.VersionTLS13, Version: version, Protocol: "http/1.1"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"a.test"}, h.Certificate.Names); diff != "" {
				t.Error(diff)
			}
		})
	}
}
