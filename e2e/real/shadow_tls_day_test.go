//go:build e2ereal

package real

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
)

// mailServers starts an old and a new server with STARTTLS that are alike, and a split
// that shadows one by the other and sees into TLS with a pair of its own.
func (l *lab) mailServers(a *authority, atRelay *keyPair) []*postfix {
	l.t.Helper()
	const alike = "\nmyhostname = mx.example\nsmtpd_recipient_restrictions = check_client_access static:HOLD\ninet_interfaces = "
	atServers := a.issue("mx", "ECDSA", lasting, mxName)
	mxs := []*postfix{
		newPostfix(l.t, l.old, l.dir, alike+"192.0.2.25, 2001:db8::25\n"+tlsMain(atServers)),
		newPostfixBehind(l.t, l.new, l.dir, alike+"10.0.0.12, fd00:25::12\n"+tlsMain(atServers)),
	}
	for _, mx := range mxs {
		mx.also(l.t, tlsServices)
	}
	startAll(l.t, mxs...)
	l.splitting = l.startDaemon(l.old, punctual+mailInKernel("mx", 25, 2525, "identity: proxy-v2, "+a.shadowTLS(atRelay)).config(), nil)
	l.ok("shadow", "mx", "100%")
	return mxs
}

// TestAPrimaryThatStopsOfferingSTARTTLSBreaksNothing lets the old server lose its TLS in the
// middle of the day, and get it back.
func TestAPrimaryThatStopsOfferingSTARTTLSBreaksNothing(t *testing.T) {
	l := newLab(t)
	a := newAuthority(t, l.dir)
	mxs := l.mailServers(a, a.issue("relay", "ECDSA", lasting, mxName))
	old, c := mxs[0], l.clients[0]
	l.untilSeenInto(c, a)
	for _, offered := range []bool{false, true} {
		before := l.report("mx")
		level := "none"
		if offered {
			level = "may"
		}
		old.tool("postconf", "smtpd_tls_security_level="+level)
		old.reload()
		nettest.Eventually(t, "STARTTLS is offered: "+strconv.FormatBool(offered), func() bool {
			s, err := l.speak(c)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			return strings.Contains(s.ehlo, "STARTTLS") == offered
		})
		const mails = 5
		for n := range mails {
			text := l.swaks(c, a, fmt.Sprintf("%d@%s.example", n, level), "--tls-optional-strict")
			if was := strings.Contains(text, "TLS started"); was != offered {
				t.Errorf("with smtpd_tls_security_level=%s the mail was sent by TLS: %v", level, was)
			}
		}
		r := l.reportWith("mx", "has all mails", func(r shadowReport) bool { return r.compared("RCPT")-before.compared("RCPT") >= mails })
		t.Logf("%s: %s\n%v", level, r.Summary, r.Differences)
		if seen := r.compared("TLS") - before.compared("TLS"); (seen >= mails) != offered {
			t.Errorf("with smtpd_tls_security_level=%s %d sessions were seen into", level, seen)
		}
		if !offered {
			l.namesSTARTTLS(r)
		}
	}
	if s, err := l.speak(c); err != nil {
		t.Error(err)
	} else {
		s.close()
	}
	l.splitting.stop()
	stopAll(mxs...)
	if queued := mxs[1].queue(); len(queued) > 0 {
		t.Errorf("the new server has %d messages, want none: %v", len(queued), queued)
	}
}

// namesSTARTTLS checks that the report has one difference, of what is offered.
func (l *lab) namesSTARTTLS(r shadowReport) {
	l.t.Helper()
	if len(r.Differences) != 1 || r.Differences[0].Endpoint != "EHLO" || !strings.Contains(r.Differences[0].String(), "STARTTLS") {
		l.t.Errorf("the report names %v, want that the new server offers STARTTLS", r.Differences)
	}
}

// untilSeenInto sends mail until a session of it was seen into.
func (l *lab) untilSeenInto(c *client, a *authority) {
	l.t.Helper()
	nettest.Eventually(l.t, "a session is seen into", func() bool {
		l.swaks(c, a, "first@shadow.example", "--tls")
		return l.report("mx").compared("TLS") > 0
	}, func() any { return l.ok("report", "mx") })
}

// reload has the instance read its configuration again.
func (p *postfix) reload() {
	p.t.Helper()
	r, err := run(p.t.Context(), p.ns, nil, "nsenter", "-t", strconv.Itoa(p.cmd.Process.Pid), "-p", "postfix", "-c", p.etc, "reload")
	if err != nil || r.code != 0 {
		p.t.Fatalf("reload Postfix %s: %v, exit %d\n%s%s", p.name, err, r.code, r.stdout, r.stderr)
	}
}

// TestAKeyThatDoesNotFitIsNamedAndTheOldOneGoesOn puts files in the place of those that
// the split serves with: a key of another certificate, and then a certificate that was
// renewed, with its key.
func TestAKeyThatDoesNotFitIsNamedAndTheOldOneGoesOn(t *testing.T) {
	l := newLab(t)
	a := newAuthority(t, l.dir)
	relay := a.issue("relay", "ECDSA", lasting, mxName)
	mxs := l.mailServers(a, relay)
	c := l.clients[0]
	l.untilSeenInto(c, a)
	before, renewed := relay.serial(t), a.issue("renewed", "ECDSA", lasting, mxName)
	l.untilShown(c, a, before)
	relay.replace(t, relay.cert, renewed.key)
	l.hangUp(relay.key)
	l.untilShown(c, a, before)
	relay.replace(t, renewed.cert, renewed.key)
	l.untilShown(c, a, renewed.serial(t))
	l.keepsSecrets(a, "mx")
	l.splitting.stop()
	stopAll(mxs...)
}

// hangUp has the daemon read its files again, of which this one is wrong, and it is named.
func (l *lab) hangUp(wrong string) {
	l.t.Helper()
	if err := l.splitting.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		l.t.Fatal(err)
	}
	l.splitting.until("names "+wrong, func() bool {
		for line := range strings.Lines(l.splitting.said.String()) {
			if (strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR")) && strings.Contains(line, wrong) {
				return true
			}
		}
		return false
	})
}

// untilShown has a client come until it is shown the certificate of that serial number. Those
// who come before the primary's TLS is known, which it is not after a SIGHUP, are shown
// the primary's own.
func (l *lab) untilShown(c *client, a *authority, want string) {
	l.t.Helper()
	var got string
	nettest.Eventually(l.t, "the certificate "+want+" is shown", func() bool {
		got = l.shownBy(c, a)
		return got == want
	}, func() any { return got })
}

// shownBy is the serial number of the certificate that a client is shown, which must be
// trusted.
func (l *lab) shownBy(c *client, a *authority) string {
	l.t.Helper()
	s, err := l.speak(c)
	if err != nil {
		l.t.Fatal(err)
	}
	defer s.close()
	if err := s.startTLS(a.client(mxName)); err != nil {
		l.t.Fatal(err)
	}
	return s.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestWhoSpeaksGarbageBehindSTARTTLSEndsHisFlowAlone has clients say what is no TLS where a
// handshake has to be, and commands before one, while others have sessions open.
func TestWhoSpeaksGarbageBehindSTARTTLSEndsHisFlowAlone(t *testing.T) {
	l := newLab(t)
	a := newAuthority(t, l.dir)
	mxs := l.mailServers(a, a.issue("relay", "ECDSA", lasting, mxName))
	l.untilKnown("mx", func() { l.shownBy(l.clients[0], a) })
	good, err := l.speak(l.clients[1])
	if err != nil {
		t.Fatal(err)
	}
	defer good.close()
	if err := errors.Join(good.startTLS(a.client(mxName)), good.say(250, "EHLO good.example")); err != nil {
		t.Fatal(err)
	}
	for _, garbage := range []string{"no TLS at all\r\n", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "\x16\x03\x03\xff\xff" + strings.Repeat("\x00", 1<<16), "\x80\x2e\x01\x00\x02"} {
		if err := l.garble(l.clients[0], garbage); err != nil {
			t.Errorf("who says %.20q behind STARTTLS: %v", garbage, err)
		}
		if err := good.say(250, "NOOP"); err != nil {
			t.Errorf("another session, when one has said %.20q behind STARTTLS: %v", garbage, err)
		}
	}
	seen := l.status("mx").Shadow.TLS.Terminated
	if err := l.inject(l.clients[2], a); err != nil {
		t.Error(err)
	}
	if now := l.status("mx").Shadow.TLS.Terminated; now != seen+1 {
		t.Errorf("%d flows were seen into, want %d: that in which commands were injected as well", now, seen+1)
	}
	if err := errors.Join(good.say(250, "MAIL FROM:<good@client2.example>"), good.say(250, "RCPT TO:<good@shadow.example>"),
		good.say(354, "DATA"), good.say(250, "Subject: good\r\n\r\ngood\r\n."), good.say(221, "QUIT")); err != nil {
		t.Errorf("the session that was open all the time: %v", err)
	}
	good.close()
	l.swaks(l.clients[0], a, "after@shadow.example", "--tls")
	l.splitting.stop()
	stopAll(mxs...)
	mail := mxs[0].mail()
	for _, want := range []string{"good@shadow.example from " + l.clients[1].v4.String(), "after@shadow.example from " + l.clients[0].v4.String()} {
		if mail[want] != 1 {
			t.Errorf("the old server has %d of %s, want 1 of all %v", mail[want], want, mail)
		}
	}
}

// garble has a client say something in the place of a TLS handshake, which must end his
// connection.
func (l *lab) garble(c *client, garbage string) error {
	s, err := l.speak(c)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.say(220, "STARTTLS"); err != nil {
		return err
	}
	if _, err := s.conn.Write([]byte(garbage)); err != nil {
		return err
	}
	if err := s.conn.(*net.TCPConn).CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return err
	}
	for {
		if _, err := s.replies.R.ReadByte(); err != nil {
			if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				return errors.New("the connection stays")
			}
			return nil
		}
	}
}

func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

// inject has a client send commands behind STARTTLS, in clear, which nobody may take for
// something that was said inside TLS (CVE-2011-0411).
func (l *lab) inject(c *client, a *authority) error {
	s, err := l.speak(c)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.say(220, "STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<injected@client3.example>"); err != nil {
		return err
	}
	if err := s.secure(a.client(mxName)); err != nil {
		return err
	}
	if err := errors.Join(s.say(250, "EHLO client3.example"), s.say(503, "RCPT TO:<injected@shadow.example>")); err != nil {
		return fmt.Errorf("behind commands that were sent before the handshake: %w", err)
	}
	return nil
}

// session is a session with the service, of a client that knows what it does.
type session struct {
	conn    net.Conn
	replies *textproto.Reader
	ehlo    string // what was replied to EHLO
}

// speak opens one, and says EHLO.
func (l *lab) speak(c *client) (*session, error) {
	s := &session{}
	if err := c.NS.NS.Do(func() (err error) {
		s.conn, err = net.DialTimeout("tcp", serviceV4+":25", patience)
		return err
	}); err != nil {
		return nil, err
	}
	s.replies = textproto.NewReader(bufio.NewReader(s.conn))
	if err := s.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(err, s.conn.Close())
	}
	_, _, err := s.replies.ReadResponse(220)
	if err == nil {
		err = s.say(250, "EHLO "+c.Name+".example")
	}
	if err != nil {
		return nil, errors.Join(err, s.conn.Close())
	}
	return s, nil
}

// say says something that must be answered with this code.
func (s *session) say(code int, text string) error {
	if _, err := s.conn.Write([]byte(text + "\r\n")); err != nil {
		return err
	}
	_, reply, err := s.replies.ReadResponse(code)
	if err != nil {
		return fmt.Errorf("%q is answered: %w", text, err)
	}
	if s.ehlo == "" {
		s.ehlo = reply
	}
	return nil
}

// startTLS goes on by TLS.
func (s *session) startTLS(config *tls.Config) error {
	return errors.Join(s.say(220, "STARTTLS"), s.secure(config))
}

func (s *session) secure(config *tls.Config) error {
	if n := s.replies.R.Buffered(); n > 0 {
		return fmt.Errorf("%d bytes came behind the reply to STARTTLS, in clear", n)
	}
	secured := tls.Client(s.conn, config)
	if err := secured.Handshake(); err != nil {
		return err
	}
	s.conn, s.replies = secured, textproto.NewReader(bufio.NewReader(secured))
	return nil
}

func (s *session) close() { _ = s.conn.Close() }
