//go:build e2ereal

package real

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A shadowedMail is a split whose flows to the old mail server are shadowed.
type shadowedMail struct {
	name    string
	mode    string // the data plane
	primary string // the addresses of the old server
	port    int    // of the service
	at      int    // the new server's port
	keys    string // of the split: that the candidate is told, and more
}

// mailInKernel is such a split in mode kernel; the old server is this host itself.
func mailInKernel(name string, port, at int, shadow string) shadowedMail {
	return shadowedMail{name: name, mode: "kernel", primary: "local", port: port, at: at, keys: "shadow: {" + shadow + "}"}
}

// config has all these splits.
func (s shadowedMail) config(more ...shadowedMail) string {
	var text strings.Builder
	text.WriteString(`
control: {socket: %[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %[1]s/state
splits:
`)
	for _, s := range append([]shadowedMail{s}, more...) {
		fmt.Fprintf(&text, `
  - name: %s
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [%d/tcp]}
    protocol: smtp
    mode: %s
    primary: {name: old, addresses: [%s]}
    candidates:
      - {name: new, addresses: ["10.0.0.12:%[5]d", "[fd00:25::12]:%[5]d"], weight: 0%%%%}
    health: {check: none}   # else the logs have its checks
    %[6]s
`, s.name, s.port, s.mode, s.primary, s.at, s.keys)
	}
	return text.String()
}

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
// Postfix with three differences in policy, in both data planes. The report names
// exactly those; no mail comes to the new server, each is delivered once, and the
// old server knows whose it is. The new one is told by a PROXY header, in mode proxy
// both are.
func TestAShadowOfMailNamesWhatTheNewServerDoesOtherwise(t *testing.T) {
	for _, tt := range []struct {
		split  shadowedMail
		behind bool // the old server too wants a PROXY header
	}{
		{shadowedMail{
			name: "mx", mode: "proxy", primary: `"10.0.0.1:2525", "[fd00:25::1]:2525"`, port: 25, at: 2525,
			keys: "proxy: {send_proxy: v2}\n    shadow: {identity: proxy-v2}",
		}, true},
		{mailInKernel("mx", 25, 2525, "identity: proxy-v2"), false},
	} {
		t.Run(tt.split.mode, func(t *testing.T) {
			l := newLab(t)
			mxs := []*postfix{newPostfix(t, l.old, l.dir, oldMain), newPostfixBehind(t, l.new, l.dir, differingMain)}
			if tt.behind {
				mxs[0] = newPostfixBehind(t, l.old, l.dir, oldMain)
			}
			startAll(t, mxs...)
			l.splitting = l.startDaemon(l.old, tt.split.config(), nil)
			l.ok("shadow", "mx", "100%")
			want := l.sendAll()
			l.namesThreeDifferences(want)
			l.splitting.stop()
			stopAll(mxs...)
			checkTheMail(t, mxs, want)
		})
	}
}

// Of each client; bursts of each family. Debian's swaks has no IPv6.
const bursts, known, gone = 20, 6, 4

// sendAll sends mail from all clients, and tells how much of which by recipient and
// client.
func (l *lab) sendAll() map[string]int {
	l.t.Helper()
	want := map[string]int{}
	var clients sync.WaitGroup
	for _, c := range l.clients {
		for _, way := range c.services() {
			want["burst@shadow.example from "+way.source.String()] = bursts
		}
		want["known@shadow.example from "+c.v4.String()], want["gone@shadow.example from "+c.v4.String()] = known, gone
		clients.Go(func() {
			for _, way := range c.services() {
				l.source(c, way, 25, "burst@shadow.example", "-s", "4", "-m", fmt.Sprint(bursts))
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
	return want
}

// reportOf waits until a report has all of that many sessions.
func (l *lab) reportOf(split string, sessions int) shadowReport {
	l.t.Helper()
	r := l.reportWith(split, "has all sessions", func(r shadowReport) bool { return r.Coverage["eligible"] >= int64(exchangesOfMail*sessions) })
	l.t.Logf("%s\n%s", r.Summary, l.ok("report", split))
	if got := r.Coverage["eligible"]; got != int64(exchangesOfMail*sessions) {
		l.t.Errorf("the report of %s has %d exchanges, want %d of each of %d sessions", split, got, exchangesOfMail, sessions)
	}
	return r
}

// namesThreeDifferences reads the report of all that mail.
func (l *lab) namesThreeDifferences(sent map[string]int) {
	l.t.Helper()
	sessions := 0
	for _, n := range sent {
		sessions += n
	}
	r := l.reportOf("mx", sessions)
	n := int64(len(l.clients))
	for i, d := range r.Differences {
		switch d.Endpoint {
		case "EHLO": // both of its differences are in the same exchanges, each charged once
			text := d.Field + " " + strings.Join(d.Also, " ")
			if !strings.Contains(text, "SIZE") || !strings.Contains(text, "CHUNKING") || len(d.Also) != 1 || d.Count != (known+gone)*n {
				l.t.Errorf("EHLO differs in %q in %d exchanges, want SIZE and CHUNKING alone in %d", text, d.Count, (known+gone)*n)
			}
			r.Differences[i].Field, r.Differences[i].Also = "keywords", nil
		case "RCPT":
			if d.Count != gone*n {
				l.t.Errorf("%v was in %d exchanges, want %d", d, d.Count, gone*n)
			}
		}
	}
	r.names(l.t, []string{"EHLO | keywords", refusedRCPT})
	if !strings.Contains(r.Rule, "envelope") {
		l.t.Errorf("the rule in force is %q, want that of the envelope", r.Rule)
	}
}

// checkTheMail reads in both queues and in the new server's log who has got what.
func checkTheMail(t testing.TB, mxs []*postfix, want map[string]int) {
	t.Helper()
	if queued := mxs[1].queue(); len(queued) > 0 {
		t.Errorf("the new server has %d messages, want none: %v", len(queued), queued)
	}
	if text := mxs[1].logText(); strings.Contains(text, "message-id=") || strings.Contains(text, "END-OF-MESSAGE") {
		t.Errorf("content came to the new server:\n%s", tail(text, 10))
	}
	if diff := cmp.Diff(want, mxs[0].mail()); diff != "" {
		t.Errorf("messages in the old queue by recipient and client, each once (-want +got):\n%s", diff)
	}
}

// mail counts what is in the queue by recipient and client.
func (p *postfix) mail() map[string]int {
	p.t.Helper()
	counts := map[string]int{}
	for _, m := range p.queue() {
		counts[m.Recipients[0].Address+" from "+m.Client.String()]++
	}
	return counts
}
