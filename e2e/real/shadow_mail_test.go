//go:build e2ereal

package real

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shadowMailConfig shadows all mail in mode proxy. Both servers learn who the
// client is by a PROXY header.
const shadowMailConfig = `
control: {socket: %[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: ["10.0.0.1:2525", "[fd00:25::1]:2525"]}
    candidates:
      - {name: new, addresses: ["10.0.0.12:2525", "[fd00:25::12]:2525"], weight: 0%%}
    health: {check: none}   # else the logs have its checks
    proxy: {send_proxy: v2}
    shadow: {identity: proxy-v2}
`

// differingMain is a new server that differs in three things that matter: it
// refuses a recipient, takes less, and has one extension less.
const differingMain = `
myhostname = new-mx.example
inet_interfaces = 10.0.0.12, fd00:25::12
smtpd_recipient_restrictions = check_recipient_access inline:{gone@shadow.example=REJECT}, check_client_access static:HOLD
message_size_limit = 5000000
smtpd_discard_ehlo_keywords = chunking
`

// TestAShadowOfMailNamesWhatTheNewServerDoesOtherwise plays real mail to a new
// Postfix with three differences in policy. The report names exactly those; no
// mail comes to the new server, and each is delivered once.
func TestAShadowOfMailNamesWhatTheNewServerDoesOtherwise(t *testing.T) {
	l := newLab(t)
	mxs := []*postfix{newPostfixBehind(t, l.old, l.dir, oldMain), newPostfixBehind(t, l.new, l.dir, differingMain)}
	for _, mx := range mxs {
		mx.start(t)
	}
	for _, mx := range mxs {
		mx.awaitStart()
	}
	l.splitting = l.startDaemon(l.old, shadowMailConfig, nil)
	l.ok("shadow", "mx", "100%")

	// Of each client; bursts of each family. Debian's swaks has no IPv6.
	const bursts, known, gone = 40, 12, 6
	var clients sync.WaitGroup
	for _, c := range l.clients {
		clients.Go(func() {
			for _, way := range c.services() {
				l.burst(c, way, bursts)
			}
			for range known {
				l.mailBehind(c, "known@shadow.example")
			}
			for range gone {
				l.mailBehind(c, "gone@shadow.example")
			}
		})
	}
	clients.Wait()
	n := len(l.clients)

	r := l.reportWith("mx", "has all sessions", func(r shadowReport) bool {
		var refused, greeted int64
		for _, d := range r.Differences {
			switch d.Endpoint {
			case "RCPT":
				refused += d.Count
			case "EHLO":
				greeted += d.Count
			}
		}
		return refused == int64(gone*n) && greeted == int64((known+gone)*n)
	})
	t.Logf("%s\n%s", r.Summary, l.ok("report", "mx"))
	// Both differences of EHLO are in the same exchanges, each charged once.
	for i, d := range r.Differences {
		if d.Endpoint == "EHLO" {
			text := d.Field + " " + strings.Join(d.Also, " ")
			if !strings.Contains(text, "SIZE") || !strings.Contains(text, "CHUNKING") || len(d.Also) != 1 {
				t.Errorf("EHLO differs in %q, want SIZE and CHUNKING alone", text)
			}
			r.Differences[i].Field = "keywords"
		}
	}
	r.names(t, []string{"EHLO | keywords", "RCPT | code"})
	if !strings.Contains(r.Rule, "envelope") {
		t.Errorf("the rule in force is %q, want that of the envelope", r.Rule)
	}
	l.splitting.stop()
	for _, mx := range mxs {
		mx.stop()
	}
	if queued := mxs[1].queue(); len(queued) > 0 {
		t.Errorf("the new server has %d messages, want none: %v", len(queued), queued)
	}
	if text := mxs[1].logText(); strings.Contains(text, "message-id=") || strings.Contains(text, "END-OF-MESSAGE") {
		t.Errorf("content came to the new server:\n%s", tail(text, 10))
	}
	byRecipient := map[string]int{}
	for _, m := range mxs[0].queue() {
		byRecipient[m.Recipients[0].Address]++
	}
	want := map[string]int{"known@shadow.example": known * n, "gone@shadow.example": gone * n, "burst@shadow.example": 2 * bursts * n}
	if diff := cmp.Diff(want, byRecipient); diff != "" {
		t.Errorf("messages in the old queue by recipient, each once (-want +got):\n%s", diff)
	}
}

// burst sends messages by smtp-source, which says HELO.
func (l *lab) burst(c *client, way service, messages int) {
	l.t.Helper()
	r, err := run(l.t.Context(), c.NS, nil, "smtp-source", "-s", "4", "-m", fmt.Sprint(messages), "-M", c.Name+".example",
		"-f", "sender@"+c.Name+".example", "-t", "burst@shadow.example", "inet:"+way.address+":25")
	if err != nil || r.code != 0 || r.stdout+r.stderr != "" {
		l.t.Errorf("smtp-source from %s to %s: %v, exit %d, %s%s", way.source, way.address, err, r.code, r.stdout, r.stderr)
	}
}
