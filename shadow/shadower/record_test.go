package shadower

import (
	"crypto/tls"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/runner"
)

var handshake = shadow.Handshake{
	ServerName: "mail.example.com", Protocols: []string{"h2", "http/1.1"}, Least: tls.VersionTLS12, Most: tls.VersionTLS13,
	Ciphers: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256, Protocol: "http/1.1", Resumed: true,
	Certificate: shadow.Shown{
		Names: []string{"*.example.com", "mail.example.com"}, Issuer: "CN=Some Root", Key: "YQ==", Kind: "ECDSA P-256",
		Before: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), After: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), Distrust: "it is of nobody",
	},
	Began: time.Unix(1_700_000_000, 1), Ended: time.Unix(1_700_000_000, 2),
}

func TestAFlowInTLSIsReadAsItWasWritten(t *testing.T) {
	for name, want := range map[string]runner.Flow{
		"in clear": flow,
		"in TLS":   {Client: flow.Client, Service: flow.Service, Primary: flow.Primary, TLS: &handshake},
		"unseen":   {Client: flow.Client, Service: flow.Service, Primary: flow.Primary, Opaque: "HTTP/2"},
	} {
		t.Run(name, func(t *testing.T) {
			at, of, err := openedOf(opened(part{5, 7, 1}, want))
			if diff := cmp.Diff(want, of, cmpopts.EquateComparable(netip.AddrPort{})); err != nil || at != (part{5, 7, 1}) || diff != "" {
				t.Errorf("%v, %v, -want +got\n%s", at, err, diff)
			}
		})
	}
}

func TestAHandshakeIsReadAsItWasWritten(t *testing.T) {
	r := secured(handshake)
	h, err := securedOf(r)
	if diff := cmp.Diff(handshake, h); err != nil || diff != "" || !r.At.Equal(handshake.Ended) {
		t.Errorf("%v, at %v, -want +got\n%s", err, r.At, diff)
	}
	r.Body = r.Body[1:]
	if _, err := securedOf(r); err == nil {
		t.Error("half a handshake is read")
	}
}
