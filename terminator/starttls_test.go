package terminator

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mailer is a server of mail that offers STARTTLS, if it has a configuration, and answers
// what it hears, also inside TLS. behind is what it says in clear behind its 220.
type mailer struct {
	config  *tls.Config
	refuses bool // offers STARTTLS and refuses it
	behind  string
	heard   chan string // each command that it has heard, if there is one
}

func (m mailer) serve(conn net.Conn) {
	_, _ = io.WriteString(conn, "220 mx.test ESMTP\r\n")
	m.talk(conn, conn, m.config != nil)
}

func (m mailer) talk(conn net.Conn, voice io.ReadWriter, offers bool) {
	lines := bufio.NewReader(voice)
	say := func(s string) { _, _ = io.WriteString(voice, s) }
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if c, ok := voice.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
			return
		}
		line = strings.TrimSpace(line)
		if m.heard != nil {
			m.heard <- line
		}
		switch verb, _, _ := strings.Cut(strings.ToUpper(line), " "); {
		case verb == "EHLO" && offers:
			say("250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
		case verb == "EHLO":
			say("250-mx.test\r\n250 PIPELINING\r\n")
		case verb == "STARTTLS" && offers && m.refuses:
			say("454 4.7.0 TLS not available\r\n")
		case verb == "STARTTLS" && offers:
			say("220 2.0.0 Ready to start TLS\r\n" + m.behind)
			inside := tls.Server(conn, m.config)
			if inside.Handshake() != nil {
				return
			}
			m.talk(conn, inside, false)
			return
		case verb == "DATA":
			say("354 go on\r\n")
			for line := ""; line != ".\r\n"; {
				if line, err = lines.ReadString('\n'); err != nil {
					return
				}
			}
			say("250 2.0.0 Ok: queued\r\n")
		case verb == "QUIT":
			say("221 2.0.0 Bye\r\n")
			if c, ok := voice.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
			_, _ = io.Copy(io.Discard, conn)
			return
		case verb == "STARTTLS", verb == "BDAT":
			say("502 5.5.1 Error: no such command here\r\n")
		default:
			say("250 2.0.0 Ok\r\n")
		}
	}
}

// A mailClient says commands and reads replies.
type mailClient struct {
	testing.TB
	conn  net.Conn
	voice io.ReadWriter
	lines *bufio.Reader
}

func (s *stand) mail() (*mailClient, *carried) {
	s.Helper()
	conn, flow := s.connect()
	c := &mailClient{TB: s, conn: conn, voice: conn, lines: bufio.NewReader(conn)}
	c.reads("220")
	return c, flow
}

func (c *mailClient) says(s string) {
	c.Helper()
	_, err := io.WriteString(c.voice, s)
	check(c, err)
}

// reads reads one reply, with a code.
func (c *mailClient) reads(code string) string {
	c.Helper()
	var all strings.Builder
	for {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			c.Fatalf("a reply with %s: %v", code, err)
		}
		all.WriteString(line)
		if !strings.HasPrefix(line, code) {
			c.Fatalf("a reply with %s: it is %q", code, line)
		}
		if line[3] == ' ' {
			return all.String()
		}
	}
}

func (c *mailClient) asks(command, code string) string {
	c.Helper()
	c.says(command + "\r\n")
	return c.reads(code)
}

// secures goes on inside TLS.
func (c *mailClient) secures(config *tls.Config) tls.ConnectionState {
	c.Helper()
	inside := tls.Client(c.conn, config)
	check(c, inside.Handshake())
	c.voice, c.lines = inside, bufio.NewReader(inside)
	return inside.ConnectionState()
}

// quits ends the session, and reads its end.
func (c *mailClient) quits() {
	c.Helper()
	c.asks("QUIT", "221")
	if b, err := io.ReadAll(c.lines); len(b) > 0 || err != nil {
		c.Errorf("behind the end: %q, %v", b, err)
	}
	_ = c.conn.Close()
}

// knowsMail has the primary's STARTTLS be known.
func (s *stand) knowsMail(config *tls.Config) {
	s.Helper()
	c, flow := s.mail()
	c.asks("EHLO me", "250")
	c.asks("STARTTLS", "220")
	c.secures(&tls.Config{InsecureSkipVerify: true, ServerName: config.ServerName, NextProtos: config.NextProtos})
	c.quits()
	<-flow.done
	s.known.running.Wait()
	if flow.opaque != unknownYet {
		s.Fatalf("the first flow was not passed through: %q", flow.opaque)
	}
}

func TestMailIsSeenBehindSTARTTLS(t *testing.T) {
	a := newAuthority(t)
	theirs := a.sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "smtp", serve: mailer{config: &tls.Config{Certificates: []tls.Certificate{theirs}}}.serve})
	s.knowsMail(s.asks("a.test"))
	c, flow := s.mail()
	if offer := c.asks("EHLO me", "250"); offer != "250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n" {
		t.Errorf("the offer was changed: %q", offer)
	}
	c.asks("starttls", "220")
	if state := c.secures(s.asks("a.test")); sameKeys(state.PeerCertificates, theirs) {
		t.Error("the client was shown the primary's certificate")
	}
	c.asks("EHLO me", "250")
	c.asks("MAIL FROM:<a@test>", "250")
	c.quits()
	<-flow.done
	if flow.err != nil || flow.end != "closed" || flow.opaque != "" || flow.opened != nil {
		t.Errorf("flow: %v, %q, %q, %v", flow.err, flow.end, flow.opaque, flow.opened)
	}
	want := []string{
		"primary: 220 mx.test ESMTP\r\n", "client: EHLO me\r\n", "primary: 250-mx.test\r\n250-PIPELINING\r\n250 STARTTLS\r\n",
		"client: starttls\r\n", "primary: 220 2.0.0 Ready to start TLS\r\n", "secured",
		"client: EHLO me\r\n", "primary: 250-mx.test\r\n250 PIPELINING\r\n", "client: MAIL FROM:<a@test>\r\n", "primary: 250 2.0.0 Ok\r\n",
		"client: QUIT\r\n", "primary: 221 2.0.0 Bye\r\n",
	}
	if diff := cmp.Diff(want, flow.said); diff != "" {
		t.Error(diff)
	}
	if n := s.Numbers(); n.Terminated != 1 || n.Clear != 2 || n.Probes != 1 {
		t.Errorf("numbers: %+v", n)
	}
}

func TestWhatAClientInjectsBehindSTARTTLSIsHeardByNobody(t *testing.T) {
	a := newAuthority(t)
	heard := make(chan string, 100)
	m := mailer{config: &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}, heard: heard}
	s := newStand(t, a, set{protocol: "smtp", serve: m.serve})
	s.knowsMail(s.asks("a.test"))
	c, flow := s.mail()
	c.asks("EHLO me", "250")
	c.says("STARTTLS\r\nMAIL FROM:<injected@test>\r\n")
	c.reads("220")
	c.secures(s.asks("a.test"))
	c.asks("NOOP", "250")
	c.quits()
	<-flow.done
	close(heard)
	for line := range heard {
		if strings.Contains(line, "injected") {
			t.Errorf("the primary has heard %q", line)
		}
	}
	if told := fmt.Sprint(flow.said); strings.Contains(told, "injected") || !strings.Contains(told, "secured client: NOOP") {
		t.Errorf("told: %s", told)
	}
}

func TestWhatThePrimaryInjectsWithItsReplyToSTARTTLSIsHeardByNobody(t *testing.T) {
	a := newAuthority(t)
	m := mailer{config: &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}}
	s := newStand(t, a, set{protocol: "smtp", serve: m.serve})
	s.knowsMail(s.asks("a.test"))
	m.behind = "250 injected\r\n"
	s.serves(m.serve)
	c, flow := s.mail()
	c.asks("EHLO me", "250")
	c.asks("STARTTLS", "220")
	c.secures(s.asks("a.test"))
	if reply := c.asks("NOOP", "250"); strings.Contains(reply, "injected") {
		t.Errorf("the client has heard %q", reply)
	}
	c.quits()
	<-flow.done
	if told := fmt.Sprint(flow.said); strings.Contains(told, "injected") {
		t.Errorf("told: %s", told)
	}
}

func TestWhereThePrimaryRefusesSTARTTLSWhatWasHeldGoesOn(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "smtp", serve: mailer{config: &tls.Config{}, refuses: true}.serve})
	c, flow := s.mail()
	c.asks("EHLO me", "250")
	c.says("STARTTLS\r\nNOOP\r\nRSET\r\n")
	c.reads("454")
	c.reads("250")
	c.reads("250")
	c.quits()
	<-flow.done
	if flow.err != nil || flow.opaque != "" || flow.end != "closed" {
		t.Errorf("flow: %v, %q, %q", flow.err, flow.opaque, flow.end)
	}
	if told := strings.Join(flow.said, ""); !strings.Contains(told, "454 4.7.0 TLS not available\r\nclient: NOOP\r\nRSET\r\n") {
		t.Errorf("told: %q", told)
	}
}

func TestAPrimaryWithoutSTARTTLSGetsNone(t *testing.T) {
	s := newStand(t, newAuthority(t), set{protocol: "smtp", serve: mailer{}.serve})
	c, flow := s.mail()
	if offer := c.asks("EHLO me", "250"); strings.Contains(offer, "STARTTLS") {
		t.Errorf("offered: %q", offer)
	}
	c.asks("STARTTLS", "502")
	c.asks("NOOP", "250")
	c.quits()
	<-flow.done
	if flow.err != nil || flow.opaque != "" {
		t.Errorf("flow: %v, %q", flow.err, flow.opaque)
	}
}

func TestAPrimaryThatStopsOfferingSTARTTLSIsFollowed(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "smtp", serve: mailer{config: &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}}.serve})
	s.knowsMail(s.asks("a.test"))
	s.serves(mailer{}.serve)
	c, flow := s.mail()
	if offer := c.asks("EHLO me", "250"); strings.Contains(offer, "STARTTLS") {
		t.Errorf("offered: %q", offer)
	}
	c.asks("STARTTLS", "502")
	c.quits()
	<-flow.done
	if flow.err != nil {
		t.Error(flow.err)
	}
}

func TestGarbageBehindSTARTTLSGoesToThePrimaryUnseen(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "smtp", serve: mailer{config: &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}}.serve})
	s.knowsMail(s.asks("a.test"))
	c, flow := s.mail()
	c.asks("EHLO me", "250")
	c.asks("STARTTLS", "220")
	c.says("MAIL FROM:<garbage@test>\r\n")
	rest, err := io.ReadAll(c.lines)
	if err != nil {
		t.Error(err)
	}
	if len(rest) > 0 && rest[0] != 21 {
		t.Errorf("the client hears %q: it should be the primary's alert, or nothing", rest)
	}
	_ = c.conn.Close()
	<-flow.done
	if flow.opaque != noHello || strings.Contains(fmt.Sprint(flow.said), "garbage") {
		t.Errorf("opaque %q, told %q", flow.opaque, flow.said)
	}
	// The next flow is as any other.
	d, _ := s.mail()
	d.asks("EHLO me", "250")
	d.asks("STARTTLS", "220")
	d.secures(s.asks("a.test"))
	d.quits()
}

func TestAMailThatSpeaksOfSTARTTLSBeginsNone(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "smtp", serve: mailer{config: &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}}.serve})
	c, flow := s.mail()
	c.asks("EHLO me", "250")
	c.asks("MAIL FROM:<a@test>", "250")
	c.asks("RCPT TO:<b@test>", "250")
	c.asks("DATA", "354")
	c.says("Subject: x\r\n\r\nSTARTTLS\r\n.\r\n")
	c.reads("250")
	c.quits()
	<-flow.done
	if flow.err != nil || flow.opaque != "" || flow.end != "closed" {
		t.Errorf("flow: %v, %q, %q", flow.err, flow.opaque, flow.end)
	}
	if told := strings.Join(flow.said, ""); !strings.Contains(told, "STARTTLS\r\n.\r\nprimary: 250 2.0.0 Ok: queued") {
		t.Errorf("told: %q", told)
	}
}

func TestImplicitTLSOfMail(t *testing.T) {
	a := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}
	s := newStand(t, a, set{protocol: "smtp", serve: func(conn net.Conn) {
		inside := tls.Server(conn, config)
		if inside.Handshake() != nil {
			return
		}
		_, _ = io.WriteString(inside, "220 mx.test ESMTP\r\n")
		mailer{}.talk(conn, inside, false)
	}})
	s.knows(s.asks("a.test"))
	conn, flow := s.connect()
	c := &mailClient{TB: t, conn: conn}
	c.secures(s.asks("a.test"))
	c.reads("220")
	c.asks("EHLO me", "250")
	c.quits()
	<-flow.done
	if flow.err != nil || flow.end != "closed" || flow.opened == nil || flow.secured != nil {
		t.Errorf("flow: %v, %q, %v, %v", flow.err, flow.end, flow.opened, flow.secured)
	}
	if diff := cmp.Diff("primary: 220 mx.test ESMTP\r\n", flow.said[0]); diff != "" {
		t.Error(diff)
	}
}
