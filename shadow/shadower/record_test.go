package shadower

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/ring"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

var handshake = shadow.Handshake{
	ServerName: "mail.example.com", Protocols: []string{"\x8a\x8a", "h2", "http/1.1"}, Least: tls.VersionTLS12, Most: tls.VersionTLS13,
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

// mailer offers STARTTLS, and says yes to all else, in clear and inside.
func mailer(t *testing.T) netip.AddrPort {
	t.Helper()
	own, err := certs.Sign(&x509.Certificate{NotAfter: time.Now().AddDate(1, 0, 0)}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{own}}
	return listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "220 new.example\r\n")
		for lines := bufio.NewReader(c); ; {
			line, err := lines.ReadString('\n')
			switch {
			case err != nil:
				return
			case strings.HasPrefix(line, "STARTTLS"):
				_, _ = io.WriteString(c, "220 go\r\n")
				c = tls.Server(c, config)
				lines = bufio.NewReader(c)
			default:
				_, _ = io.WriteString(c, "250-new.example\r\n250 STARTTLS\r\n")
			}
		}
	})
}

// What is told of TLS reaches the flow that it is about, which is counted once.
func TestWhatBecomesOfEncryptedFlowsIsPlayedAndCounted(t *testing.T) {
	mail := split(mailer(t))
	mail.Protocol, mail.Shadow.Mode = "smtp", "envelope"
	mail.Shadow.TLS = traffic.TLS{
		Certificates: []traffic.Certificate{{Cert: "c", Key: "k"}}, ToCandidate: traffic.Trust{Report: true}, ToPrimary: traffic.Trust{Report: true},
	}
	says := func(from shadow.Party, text string) ring.Record {
		return ring.Record{Kind: kindBytes, Of: uint8(from), At: time.Now(), Body: []byte(text)}
	}
	const hello, offers = "EHLO client.example\r\n", "250-old.example\r\n250 STARTTLS\r\n"
	begins := []ring.Record{
		says(shadow.Primary, "220 old.example\r\n"), says(shadow.Client, hello), says(shadow.Primary, offers),
		says(shadow.Client, "STARTTLS\r\n"), says(shadow.Primary, "220 go\r\n"),
	}
	ends := ring.Record{Kind: kindEnded, Of: endClosed, At: time.Now()}
	for name, test := range map[string]struct {
		flow    runner.Flow
		records []ring.Record
		want    map[string]uint64
	}{
		"it cannot be seen into": {runner.Flow{Opaque: "HTTP/2"}, []ring.Record{ends}, map[string]uint64{"opaque": 1}},
		"behind STARTTLS": {
			flow, append(begins[:5:5], secured(handshake), says(shadow.Client, hello), says(shadow.Primary, offers), ends),
			map[string]uint64{"compared": 5},
		},
		"unseen behind STARTTLS": {flow, append(begins[:5:5], opaque("a certificate of the client is asked for", time.Now()), ends), map[string]uint64{"compared": 2, "opaque": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			o.do(o.desk.Make(Making{ID: 1, Line: 1, Split: mail}, nil))
			o.do(o.desk.Run(Running{1, 1}, nil))
			slot, turn, how := o.outlet.open(opened(part{1, 1, 1}, test.flow), new(atomic.Uint64))
			if how != welcomed {
				t.Fatal("the flow finds no room")
			}
			for _, r := range test.records {
				r.Slot, r.Turn = slot, turn
				if r.Kind == kindEnded {
					o.outlet.end(r)
				} else if !o.outlet.put(r) {
					t.Fatal("there is no room")
				}
			}
			o.read()
			var a Answer
			nettest.Eventually(t, "it is counted", func() bool {
				o.do(o.desk.Numbers(Asking{ID: 1}, &a))
				return a.Numbers.Eligible > 0 && a.Numbers.Open == 0
			})
			o.do(o.desk.End(1, nil))
			o.do(o.desk.Numbers(Asking{ID: 1}, &a))
			got := map[string]uint64{}
			for part, n := range a.Numbers.Coverage {
				if n > 0 {
					got[part] = n
				}
			}
			var c Counted
			o.do(o.desk.Bytes(1, &c))
			if diff := cmp.Diff(test.want, got); diff != "" || c.Settled != 1 {
				t.Errorf("%d flows are settled; coverage (-want +got):\n%s", c.Settled, diff)
			}
		})
	}
}
