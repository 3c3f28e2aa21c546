//go:build e2ereal

package real

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
)

// mxName is what clients ask the service for, those that say a name.
const mxName = "mx.example"

// tlsMain is a server that offers STARTTLS, and writes into each mail what it came by.
func tlsMain(p *keyPair) string {
	return fmt.Sprintf(`
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
smtpd_tls_chain_files = %s, %s
`, p.key, p.cert)
}

// punctual has shadows played where the machine does other work as well.
const punctual = "shadow: {priority: normal}\n"

// tlsServices is what of master.cf(5) has to run beside an instance with TLS.
const tlsServices = "tlsmgr unix - - n 1000? 1 tlsmgr\n"

// sendingMain sends all that it gets on this host to the service, by TLS or not at all,
// and knows whom it speaks to. What comes from one sender goes over IPv6.
func sendingMain(host string, a *authority) string {
	return fmt.Sprintf(`
myhostname = %[1]s.example
inet_interfaces = 127.0.0.1
relayhost = [192.0.2.25]:25
sender_dependent_relayhost_maps = inline:{ six@%[1]s.example=[2001:db8::25]:25 }
smtp_tls_security_level = secure
smtp_tls_secure_cert_match = %[2]s
smtp_tls_CAfile = %[3]s
smtp_tls_loglevel = 1
smtp_tls_session_cache_database = btree:$data_directory/sessions
smtp_dns_support_level = disabled
smtp_connection_cache_on_demand = no
`, host, mxName, a.file)
}

// newSender is an instance on a client's host that sends by Postfix's own client.
func newSender(t testing.TB, c *client, dir string, a *authority) *postfix {
	t.Helper()
	p := newPostfix(t, c.NS, dir, sendingMain(c.Name, a))
	p.listen(t, smtpService+"  -o mynetworks=127.0.0.0/8\nsmtp unix - - n - - smtp\n"+tlsServices)
	return p
}

// swaks sends a mail by swaks, with TLS as the arguments say, and returns what was said.
func (l *lab) swaks(c *client, a *authority, recipient string, args ...string) string {
	l.t.Helper()
	r, err := run(l.t.Context(), c.NS, nil, "swaks", append([]string{
		"--server", serviceV4, "--timeout", "20s", "--ehlo", c.Name + ".example", "--from", "swaks@" + c.Name + ".example",
		"--to", recipient, "--body", "hello", "--tls-verify", "--tls-ca-path", a.file,
	}, args...)...)
	if said := strings.TrimSuffix(r.stderr, "*** Host did not advertise STARTTLS\n"); err != nil || r.code != 0 || said != "" {
		l.t.Errorf("swaks from %s to %s: %v, exit %d, %s%s", c.Name, recipient, err, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// TestAShadowOfMailSeesInsideSTARTTLS plays mail that comes by TLS to a new Postfix with
// three differences in policy and one in its certificate, in both data planes. The report
// names exactly those; no mail comes to the new server, each is delivered once and by
// TLS, and the old server knows whose it is.
func TestAShadowOfMailSeesInsideSTARTTLS(t *testing.T) {
	for _, tt := range []struct {
		split  shadowedMail
		behind bool
		valid  time.Duration // of the new server's certificate
		name   string        // its own
		field  string        // of the certificate, that differs
	}{
		{shadowedMail{
			name: "mx", mode: "proxy", primary: `"10.0.0.1:2525", "[fd00:25::1]:2525"`, port: 25, at: 2525,
			keys: "proxy: {send_proxy: v2}\n    shadow: {identity: proxy-v2, samples: full, %s}",
		}, true, 5 * 24 * time.Hour, mxName, "expiry"},
		{mailInKernel("mx", 25, 2525, "identity: proxy-v2, %s"), false, lasting, "new-mx.example", "name"},
	} {
		t.Run(tt.split.mode, func(t *testing.T) {
			l := newLab(t)
			a := newAuthority(t, l.dir)
			certificate, other := a.issue("old", "ECDSA", lasting, mxName), a.issue("new", "ECDSA", tt.valid, tt.name)
			tt.split.keys = fmt.Sprintf(tt.split.keys, a.shadowTLSTo(tt.name, certificate))
			newOld := newPostfix
			if tt.behind {
				newOld = newPostfixBehind
			}
			mxs := []*postfix{newOld(t, l.old, l.dir, oldMain+tlsMain(certificate)), newPostfixBehind(t, l.new, l.dir, differingMain+tlsMain(other))}
			for _, mx := range mxs {
				mx.also(t, tlsServices)
			}
			sender := newSender(t, l.clients[2], l.dir, a)
			startAll(t, append(mxs, sender)...)
			l.splitting = l.startDaemon(l.old, punctual+tt.split.config(), nil)
			l.ok("shadow", "mx", "100%")
			sent := l.sendInTLS(a, sender)
			l.namesFourDifferences(sent, tt.field)
			l.keepsSecrets(a, "mx")
			l.leavesNoCore()
			l.splitting.stop()
			sender.stop()
			stopAll(mxs...)
			checkTheMail(t, mxs, sent)
			mxs[0].cameByTLS()
		})
	}
}

// also adds services to an instance that is not yet started.
func (p *postfix) also(t testing.TB, services string) {
	t.Helper()
	file := filepath.Join(p.etc, "master.cf")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, string(text)+services)
}

// sendInTLS sends mail from all clients by TLS, in versions and with names as they may be,
// first until each is known, and tells how much of which by recipient and client.
func (l *lab) sendInTLS(a *authority, sender *postfix) map[string]int {
	l.t.Helper()
	sent := map[string]int{}
	var clients sync.WaitGroup
	var loads []func()
	for i, c := range l.clients[:2] {
		ways := [][]string{{"--tls"}, {"--tls", "--tls-protocol", "tlsv1_2"}}
		if i == 1 {
			for n := range ways {
				ways[n] = append(ways[n], "--tls-sni", mxName)
			}
		}
		known, gone := "known@shadow.example", "gone@shadow.example"
		for _, args := range ways {
			sent[known+" from "+c.v4.String()] += l.untilKnown("mx", func() { l.swaks(c, a, known, args...) }) + knownInTLS/2
		}
		sent[gone+" from "+c.v4.String()] = goneInTLS
		loads = append(loads, func() {
			for n := range knownInTLS {
				l.swaks(c, a, known, ways[n%2]...)
			}
			for n := range goneInTLS {
				l.swaks(c, a, gone, ways[n%2]...)
			}
		})
	}
	c := l.clients[2]
	for from, address := range map[string]string{"four": c.v4.String(), "six": c.v6.String()} {
		sent["burst@shadow.example from "+address] = l.untilKnown("mx", func() { l.sendByPostfix(c, sender, from, 1) }) + burstsInTLS
	}
	loads = append(loads, func() {
		for _, from := range []string{"four", "six"} {
			l.sendByPostfix(c, sender, from, burstsInTLS)
		}
	})
	for _, load := range loads {
		clients.Go(load)
	}
	clients.Wait()
	if n := strings.Count(sender.logText(), "Verified TLS connection established to"); n == 0 || strings.Contains(sender.logText(), "status=deferred") {
		l.t.Errorf("Postfix has made %d connections with a verified certificate, and its log is\n%s", n, tail(sender.logText(), 10))
	}
	return sent
}

// Of each client, and of each way of the one that sends by Postfix.
const knownInTLS, goneInTLS, burstsInTLS = 4, 4, 10

// sendByPostfix has the Postfix of a client send mail, and waits until it has.
func (l *lab) sendByPostfix(c *client, sender *postfix, from string, mails int) {
	l.t.Helper()
	sent := func() int { return strings.Count(sender.logText(), "status=sent") }
	before := sent()
	r, err := run(l.t.Context(), c.NS, nil, "smtp-source", "-s", "2", "-m", fmt.Sprint(mails), "-M", c.Name+".example",
		"-f", from+"@"+c.Name+".example", "-t", "burst@shadow.example", "inet:127.0.0.1:25")
	if err != nil || r.code != 0 || r.stdout+r.stderr != "" {
		l.t.Errorf("smtp-source on %s: %v, exit %d, %s%s", c.Name, err, r.code, r.stdout, r.stderr)
	}
	nettest.Eventually(l.t, "Postfix has sent all of its mail", func() bool { return sent() == before+mails }, func() any { return tail(sender.logText(), 5) })
}

// exchangesInTLS are those of a session with STARTTLS: that command, the handshake
// and another EHLO. Where TLS is not seen into, it is one with what is inside.
const exchangesInTLS, exchangesUnseen = exchangesOfMail + 3, 3

// namesFourDifferences reads the report of all that mail.
func (l *lab) namesFourDifferences(sent map[string]int, certificate string) {
	l.t.Helper()
	var sessions int64
	for _, n := range sent {
		sessions += int64(n)
	}
	r := l.reportWith("mx", "has all sessions", func(r shadowReport) bool {
		seen, unseen := r.compared("TLS"), r.notCompared(unknownYet)
		return seen+unseen >= sessions && r.Coverage["eligible"] >= exchangesInTLS*seen+exchangesUnseen*unseen
	})
	l.t.Logf("%s\n%s", r.Summary, l.ok("report", "mx"))
	seen := r.compared("TLS")
	if unseen := r.notCompared(unknownYet); seen+unseen != sessions || unseen > sessions/2 {
		l.t.Errorf("%d sessions were seen into and %d came too early, want all of %d, and most of them seen into", seen, unseen, sessions)
	}
	for i, d := range r.Differences {
		switch d.Endpoint {
		case "EHLO": // both of its differences are in the same exchanges, before and behind STARTTLS
			text := d.Field + " " + strings.Join(d.Also, " ")
			if !strings.Contains(text, "SIZE") || !strings.Contains(text, "CHUNKING") || len(d.Also) != 1 || d.Count != sessions+seen {
				l.t.Errorf("EHLO differs in %q in %d exchanges, want SIZE and CHUNKING alone in %d", text, d.Count, sessions+seen)
			}
			r.Differences[i].Field, r.Differences[i].Also = "keywords", nil
		case "RCPT":
			if d.Count != 2*goneInTLS {
				l.t.Errorf("%v was in %d exchanges, want %d", d, d.Count, 2*goneInTLS)
			}
		case "TLS":
			if d.Count != seen {
				l.t.Errorf("%v was in %d exchanges, want %d", d, d.Count, seen)
			}
		}
	}
	// Those that both last were not issued in the same second, as a rule.
	if masked := slices.DeleteFunc(r.masked("TLS"), func(field string) bool { return field == "not_after" }); len(masked) > 0 {
		l.t.Errorf("%q of TLS are masked, want nothing but not_after", masked)
	}
	r.names(l.t, []string{"EHLO | keywords", refusedRCPT, "TLS | " + certificate})
}

// receivedByTLS is in a mail that came so.
var receivedByTLS = regexp.MustCompile(`\(using TLSv1\.[23] with cipher \S+ \(\d+/\d+ bits\)`)

// cameByTLS checks that each mail in the queue says that it came by TLS.
func (p *postfix) cameByTLS() {
	p.t.Helper()
	for _, m := range p.queue() {
		if header := p.tool("postcat", "-h", "-q", m.ID); !receivedByTLS.MatchString(header) {
			p.t.Errorf("mail %s to %s does not say that it came by TLS:\n%s", m.ID, m.Recipients[0].Address, header)
		}
	}
}
