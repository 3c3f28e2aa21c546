package e2e

import (
	"bufio"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// smtpsConfig has mail inside TLS from the first byte, as at port 465.
const smtpsConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [10.1.0.1], ports: [4465/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:4466"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:4466"], weight: 0%%}
    health: {check: tcp}
    shadow:
      sample: 100%%
      patience: 2s
      control: none
      tls: {certificates: [{cert: %[1]s/service.crt, key: %[1]s/service.key}], to_primary: {ca: %[1]s/ca.crt}, to_candidate: {ca: %[1]s/ca.crt}}
`

func TestMailInsideTLSFromTheFirstByteIsComparedAndDeliveredOnce(t *testing.T) {
	const each = 10
	v := emptyVault(t)
	v.old = &mailer{name: "old.example"}
	new := &mailer{name: "new.example", answers: map[string]string{"RCPT TO:<bob@example.com>": "550 5.1.1 User unknown"}}
	v.router.Serve("tcp4", "127.0.0.1:4466", v.inside(v.backend(), v.old.serve))
	v.host.Serve("tcp4", "10.2.0.2:4466", v.inside(v.backend(), new.serve))
	v.configure(smtpsConfig)
	v.start()
	send := func() (byUs bool) {
		c := tls.Client(v.plain("10.1.0.1:4465"), v.trusting("mx.example"))
		defer func(c net.Conn) { _ = c.Close() }(c)
		r := bufio.NewReader(c)
		if greeting, err := r.ReadString('\n'); err != nil || !strings.Contains(greeting, "old.example") {
			t.Fatalf("a client is greeted by %q, %v", greeting, err)
		}
		if told := strings.Join(v.say(c, r, mail...), "\n"); strings.Contains(told, "550") || strings.Contains(told, "new") || !strings.Contains(told, "queued") {
			t.Fatalf("a client is told\n%s", told)
		}
		return v.byUs(c.ConnectionState())
	}
	v.eventually("mail is seen into", send)
	for range each {
		if !send() {
			t.Fatal("a flow is not seen into")
		}
	}
	v.eventually("the mails are compared", func() bool { return v.shadowed("mx").has("RCPT code value", each) })
	if diff := cmp.Diff([]string{"RCPT code value"}, v.shadowed("mx").kinds()); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	if new.sent("DATA") > 0 || new.sent("secret") > 0 || new.sent("RCPT") < 2*each || v.old.sent("DATA") <= each {
		t.Errorf("the old server was sent %d mails, and the new one %q", v.old.sent("DATA"), new.heard)
	}
}
