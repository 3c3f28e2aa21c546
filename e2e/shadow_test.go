package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const shadowConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [10.1.0.1], ports: [2525/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:2526"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:2526"], weight: 0%%}
    health: {check: none}
    shadow: {sample: 100%%, patience: 1s}
  - name: web
    service: {addresses: [10.1.0.1], ports: [8080/tcp]}
    protocol: http
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:8081"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:8081"], weight: 0%%}
    health: {check: none}
    shadow: {sample: 100%%}
`

// mailer is a mail server with some answers of its own, that remembers what it was
// sent.
type mailer struct {
	name    string
	answers map[string]string
	tls     *tls.Config    // nil: it offers no STARTTLS
	secure  func(net.Conn) // what it does behind STARTTLS; nil: it goes on in TLS
	mu      sync.Mutex
	heard   []string
}

func (m *mailer) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "220 "+m.name+" ESMTP\r\n")
	m.converse(c)
}

// converse answers commands, in clear or inside TLS.
func (m *mailer) converse(c net.Conn) {
	defer func() { _ = c.Close() }()
	say := func(text string) { _, _ = io.WriteString(c, strings.ReplaceAll(text, "NAME", m.name)+"\r\n") }
	_, secured := c.(*tls.Conn)
	content := false
	for lines := bufio.NewScanner(c); lines.Scan(); {
		line := lines.Text()
		m.mu.Lock()
		m.heard = append(m.heard, line)
		m.mu.Unlock()
		verb, _, _ := strings.Cut(line, " ")
		switch answer, own := m.answers[line]; {
		case content:
			if content = line != "."; !content {
				say("250 2.0.0 Ok: queued")
			}
		case own:
			say(answer)
		case verb == "STARTTLS" && m.tls != nil && !secured:
			say("220 2.0.0 go on")
			if m.secure != nil {
				m.secure(c)
				return
			}
			m.converse(tls.Server(c, m.tls))
			return
		case verb == "EHLO" && m.tls != nil && !secured:
			say("250-NAME\r\n250-STARTTLS\r\n250 ENHANCEDSTATUSCODES")
		case verb == "EHLO":
			say("250-NAME\r\n250-SIZE 10240000\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
		case verb == "DATA":
			content = true
			say("354 go on")
		case verb == "QUIT":
			say("221 2.0.0 Bye")
			return
		default:
			say("250 2.0.0 Ok")
		}
	}
}

func (m *mailer) sent(word string) (times int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range m.heard {
		if strings.Contains(line, word) {
			times++
		}
	}
	return times
}

// shop is a web server whose prices can be wrong.
func shop(wrong string) func(net.Conn) {
	return func(c net.Conn) {
		defer func() { _ = c.Close() }()
		path := ""
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if fields := strings.Fields(lines.Text()); len(fields) == 3 {
				path = fields[1]
			}
			if lines.Text() != "" {
				continue
			}
			body := `{"price":100}`
			if path == wrong {
				body = `{"price":"100"}`
			}
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), len(body), body)
		}
	}
}

// send has a client send a mail to alice and bob, and returns what it was told.
func (l *lab) send() (told []string) {
	l.t.Helper()
	c, r, greeting := l.dial("10.1.0.1:2525")
	defer func() { _ = c.Close() }()
	return append([]string{greeting}, l.say(c, r, mail...)...)
}

// mail is what a client says to have alice and bob get one.
var mail = []string{"EHLO client.example", "MAIL FROM:<eve@client.example>", "RCPT TO:<alice@example.com>", "RCPT TO:<bob@example.com>", "DATA", "Subject: secret\r\n\r\nsecret\r\n.", "QUIT"}

// say says lines, and returns what it was told.
func (l *lab) say(c net.Conn, r *bufio.Reader, lines ...string) (told []string) {
	l.t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(c, line+"\r\n"); err != nil {
			l.t.Fatalf("say %q: %v", line, err)
		}
		for more := true; more; {
			reply, err := r.ReadString('\n')
			if err != nil {
				l.t.Fatalf("the client is told %v after %q", err, line)
			}
			told, more = append(told, strings.TrimSpace(reply)), strings.HasPrefix(reply[3:], "-")
		}
	}
	return told
}

func (l *lab) get(path string) string {
	l.t.Helper()
	var c net.Conn
	l.client.Do(func() (err error) { c, err = net.DialTimeout("tcp", "10.1.0.1:8080", 20*time.Second); return err })
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", path)
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			l.t.Fatal(err)
		}
		if strings.HasPrefix(line, "{") {
			return line
		}
		if line == "\r\n" {
			body := make([]byte, 13)
			if _, err := io.ReadFull(r, body); err != nil {
				l.t.Fatal(err)
			}
			return string(body)
		}
	}
}

// shadowReport is what these tests read of a report.
type shadowReport struct {
	Verdict  string           `json:"verdict"`
	Rule     string           `json:"rule"`
	Coverage map[string]int64 `json:"coverage"`
	Found    []struct {
		Endpoint string `json:"endpoint"`
		Field    string `json:"field"`
		Kind     string `json:"kind"`
		Got      string `json:"got"`
		Count    int64  `json:"count"`
	} `json:"differences"`
}

// shadowed reads a report, whose coverage has to add up.
func (l *lab) shadowed(split string) (r shadowReport) {
	l.t.Helper()
	if err := json.Unmarshal([]byte(l.ok("report", split, "-o", "json").stdout), &r); err != nil {
		l.t.Fatal(err)
	}
	rest := r.Coverage["eligible"]
	for part, n := range r.Coverage {
		if part != "eligible" {
			rest -= n
		}
	}
	if rest != 0 || len(r.Coverage) != 9 {
		l.t.Errorf("coverage does not add up: %v", r.Coverage)
	}
	return r
}

func (r shadowReport) list() []string {
	list := []string{}
	for _, d := range r.Found {
		list = append(list, fmt.Sprintf("%s %s %s %d", d.Endpoint, d.Field, d.Kind, d.Count))
	}
	return list
}

func newShadowLab(t *testing.T, candidate, web func(net.Conn)) (*lab, *mailer) {
	t.Helper()
	l, old := newLab(t), &mailer{name: "old.example"}
	l.router.Serve("tcp4", "127.0.0.1:2526", old.serve)
	l.router.Serve("tcp4", "127.0.0.1:8081", shop(""))
	if candidate != nil {
		l.host.Serve("tcp4", "10.2.0.2:2526", candidate)
	}
	if web != nil {
		l.host.Serve("tcp4", "10.2.0.2:8081", web)
	}
	l.configure(shadowConfig)
	l.start()
	return l, old
}

func TestAShadowsReportNamesWhatTheNewHostAnswersOtherwiseAndNoClientNotices(t *testing.T) {
	new := &mailer{name: "new.example", answers: map[string]string{
		"EHLO client.example":       "250-NAME\r\n250-SIZE 5000\r\n250 ENHANCEDSTATUSCODES",
		"RCPT TO:<bob@example.com>": "550 5.1.1 User unknown",
	}}
	l, old := newShadowLab(t, new.serve, shop("/b"))
	const mails = 10
	for range mails {
		told := strings.Join(l.send(), "\n")
		if strings.Contains(told, "new") || strings.Contains(told, "550") || !strings.Contains(told, "queued") {
			t.Fatalf("a client was told\n%s", told)
		}
		for _, path := range []string{"/a", "/b"} {
			if body := l.get(path); body != `{"price":100}` {
				t.Fatalf("a client was told %s", body)
			}
		}
	}
	l.eventually("all mails are compared", func() bool { return new.sent("QUIT") == mails && l.shadowed("mx").Coverage["eligible"] >= 7*mails })
	r := l.shadowed("mx")
	if diff := cmp.Diff([]string{"RCPT code value 10", "EHLO keyword 8BITMIME missing 10"}, r.list()); diff != "" {
		t.Errorf("differences of mx (-want +got):\n%s\n%+v", diff, r)
	}
	l.eventually("all requests are compared", func() bool { return l.shadowed("web").Coverage["compared"] == 2*mails })
	web := l.shadowed("web")
	if diff := cmp.Diff([]string{"GET /b body $.price class 10"}, web.list()); diff != "" {
		t.Errorf("differences of web (-want +got):\n%s", diff)
	}
	if new.sent("DATA") > 0 || new.sent("secret") > 0 || old.sent("secret") != 2*mails || old.sent("MAIL") != mails {
		t.Errorf("the new host was sent %q", new.heard)
	}
	if plan := l.ok("plan").stdout + l.ok("plan").stderr; !strings.Contains(plan, "no DATA, no BDAT") {
		t.Errorf("plan does not say what may be written:\n%s", plan)
	}

	l.stop()
	l.start()
	if diff := cmp.Diff(r, l.shadowed("mx")); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
	l.ok("shadow", "mx", "0%")
	l.send()
	if got := l.shadowed("mx"); got.Coverage["eligible"] != r.Coverage["eligible"] {
		t.Errorf("at 0%% flows are played: %v", got.Coverage)
	}
	l.ok("report", "mx", "--reset")
	if got := l.shadowed("mx"); got.Coverage["eligible"] != 0 {
		t.Errorf("after a reset: %v", got.Coverage)
	}
}

func TestANewHostThatIsDeadOrHangsCostsNoClientAnythingAndIsReported(t *testing.T) {
	for name, candidate := range map[string]func(net.Conn){
		"dead":  nil,
		"hangs": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			l, old := newShadowLab(t, candidate, nil)
			const mails = 20
			for range mails {
				if told := strings.Join(l.send(), "\n"); !strings.Contains(told, "queued") {
					t.Fatalf("a client was told\n%s", told)
				}
			}
			if old.sent("MAIL") != mails {
				t.Errorf("the primary has %d mails of %d", old.sent("MAIL"), mails)
			}
			l.eventually("status says why it is left alone", func() bool {
				if name == "hangs" {
					l.send() // each costs its shadow a second of patience
				}
				s := l.status().Shadow
				return s.State == "paused" && s.Reason != ""
			})
			r := l.shadowed("mx")
			if r.Verdict != "differs" || len(r.Found) == 0 || r.Found[0].Kind != "availability" || r.Coverage["candidate_error"] == 0 {
				t.Errorf("the report is %+v", r)
			}
		})
	}
}
