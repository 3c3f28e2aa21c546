package smtp

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/splitd/splitd/shadow"
)

// A generator makes sessions with two servers of one software, which differ in
// names, ids and times, and plants differences. No rule can be tuned to it.
type generator struct {
	*rand.Rand
	plants int // how many are to come
	turns  int // among so many
	parted bool
	script script
	size   bool // the client may use SIZE
	style  int
}

// software is how servers word things: of each, those that the generator needs.
var software = [...]struct{ greeting, sender, recipient, data, done, bye, noop string }{
	{"%s ESMTP Postfix (Debian/GNU)", "2.1.0 Ok", "2.1.5 Ok", "End data with <CR><LF>.<CR><LF>", "2.0.0 Ok: queued as %s", "2.0.0 Bye", "2.0.0 Ok"},
	{"%s ESMTP Exim 4.96 Thu, 26 Nov 2026 07:53:%02d +0000", "OK", "Accepted", `Enter message, ending with "." on a line by itself`, "OK id=%s", "%s closing connection", "OK"},
	{"%s ESMTP Sendmail 8.17.1/8.17.1; Thu, 26 Nov 2026 07:%02d:56 GMT", "2.1.0 <%s>... Sender ok", "2.1.5 <%s>... Recipient ok", `Enter mail, end with "." on a line by itself`, "2.0.0 %s Message accepted for delivery", "2.0.0 %s closing connection", "2.0.0 OK"},
}

const hosts = "old.example new.example"

func (g *generator) host(side int) string { return strings.Fields(hosts)[side] }

// id is a queue id, of the forms that its software has.
func (g *generator) id() string {
	from := func(letters string, n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = letters[g.IntN(len(letters))]
		}
		return string(b)
	}
	const digits, lower = "0123456789", "abcdefghijklmnopqrstuvwxyz"
	alpha := digits + lower + strings.ToUpper(lower)
	switch {
	case g.style == 1 && g.IntN(2) == 0:
		return "1" + from(alpha, 5) + "-" + from(alpha, 6) + "-" + from(alpha, 2)
	case g.style == 1:
		return "1" + from(alpha, 5) + "-" + from(alpha, 11) + "-" + from(alpha, 4)
	case g.style == 2:
		return from(digits, 1) + from(alpha, 7) + from(digits, 6)
	case g.IntN(2) == 0:
		return from(digits+"ABCDEF", 10+g.IntN(2))
	}
	return "4" + from("BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"+digits, 14)
}

func (g *generator) fill(text string, side int, argument string) string {
	switch strings.Count(text, "%") {
	case 0:
		return text
	case 2:
		return fmt.Sprintf(text, g.host(side), g.IntN(60))
	}
	return fmt.Sprintf(text, argument)
}

// plant says whether the exchange that comes gets a difference, so that the plants
// are spread over all exchanges.
func (g *generator) plant() bool {
	g.turns = max(1, g.turns-1)
	if g.parted || g.plants == 0 || g.IntN(g.turns+g.plants) >= g.plants*2 {
		return false
	}
	g.plants--
	return true
}

func (g *generator) differs(format string, args ...any) {
	g.script.differs = append(g.script.differs, fmt.Sprintf(format, args...))
}

func (g *generator) turn(said, primary, candidate string) {
	g.script.turns = append(g.script.turns, turn{said: said, primary: primary, candidate: candidate})
}

// simple is a command with a reply of one line. What may be planted in it: whether
// it is refused, another code or enhanced code, another wording; or noise.
func (g *generator) simple(endpoint, said, code, text, argument string) {
	say := func(code, text string, side int) string { return code + " " + g.fill(text, side, argument) + "\r\n" }
	bare := func(text string) string {
		_, bare := cutEnhanced(text)
		return strings.ReplaceAll(bare, "<%s>", "<<asked>>")
	}
	begins := endpoint == "STARTTLS" // nothing but 220 does
	parts := parts(endpoint) || begins
	got, gotText := code, text
	switch enhanced, _ := cutEnhanced(text); {
	case !g.plant():
		if !g.parted && endpoint == "RCPT" && g.IntN(40) == 0 {
			got, gotText, g.parted = g.noise()
			g.script.noise = append(g.script.noise, "RCPT")
		}
	case g.IntN(3) == 0 && endpoint != greeting && endpoint != "QUIT":
		got, gotText = "550", "5.1.1 No"
		g.differs("%s code: %s -> %s", endpoint, code, got)
		g.parted = parts
	case g.IntN(3) == 0 && endpoint != greeting:
		got, g.parted = "25"+fmt.Sprint(3+g.IntN(6)), begins
		g.differs("%s code: %s -> %s", endpoint, code, got)
	case g.IntN(2) == 0 && enhanced != "":
		gotText = "2.9.9" + strings.TrimPrefix(text, enhanced)
		g.differs("%s enhanced: %s -> 2.9.9", endpoint, enhanced)
	case endpoint == greeting:
		got, g.parted = "554", true
		g.differs("greeting code: 220 -> 554")
	case endpoint == content:
		gotText = strings.TrimSpace(enhanced + " Stored")
		g.differs("content text: %s -> Stored", strings.ReplaceAll(bare(text), "%s", "<id>"))
	case endpoint == "QUIT":
		gotText = strings.TrimSpace(enhanced + " Farewell")
		g.differs("QUIT text: %s -> Farewell", strings.ReplaceAll(bare(text), "%s", "<host>"))
	default:
		gotText = strings.TrimSpace(enhanced + " Very well")
		g.differs("%s text: %s -> Very well", endpoint, bare(text))
	}
	if endpoint == "QUIT" {
		argument = g.host(0)
	}
	primary := say(code, text, 0)
	if endpoint == "QUIT" {
		argument = g.host(1)
	}
	if endpoint == content {
		argument = g.id()
	}
	g.turn(said, primary, say(got, gotText, 1))
}

// noise is a refusal that excuses explain.
func (g *generator) noise() (code, text string, parted bool) {
	all := [...][2]string{
		{"450", "4.2.0 Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help/x.html"},
		{"451", "4.7.1 Greylisting in action, please come back in 00:05:00"},
		{"554", "5.7.1 Service unavailable; Client host [192.0.2.9] blocked using zen.spamhaus.org"},
		{"550", "5.7.25 Client host rejected: cannot find your reverse hostname, [192.0.2.9]"},
	}
	one := all[g.IntN(len(all))]
	return one[0], one[1], true
}

// secure has TLS begin, and plants in the handshakes.
func (g *generator) secure() {
	g.simple("STARTTLS", "STARTTLS\r\n", "220", "2.0.0 Ready to start TLS", "")
	p := shadow.Handshake{
		Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256, Began: start, Ended: start,
		Certificate: shadow.Shown{Names: []string{"mail.example", "mx.example"}, Issuer: "CN=Root", After: start.AddDate(0, 0, 20+g.IntN(300)), Kind: "ECDSA P-256"},
	}
	n := p
	n.Certificate.After = start.AddDate(0, 0, 20+g.IntN(300))
	if g.plant() {
		switch g.IntN(6) {
		case 0:
			n.Version, n.Cipher = tls.VersionTLS12, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
			g.differs("TLS version: TLS 1.3 -> TLS 1.2")
		case 1:
			n.Cipher = tls.TLS_CHACHA20_POLY1305_SHA256
			g.differs("TLS cipher: TLS_AES_128_GCM_SHA256 -> TLS_CHACHA20_POLY1305_SHA256")
		case 2:
			n.Certificate.Names = n.Certificate.Names[:1]
			g.differs("TLS name: mx.example -> ")
		case 3:
			n.Certificate.After = start.AddDate(0, 0, 5)
			g.differs("TLS expiry: valid -> expires soon")
		case 4:
			n.Certificate.Kind = "RSA 2048"
			g.differs("TLS key: ECDSA P-256 -> RSA 2048")
		case 5:
			n, g.parted = shadow.Handshake{Failed: "tls: handshake failure"}, true
			g.differs("TLS reply: a reply -> the TLS handshake fails: handshake failure")
		}
	}
	g.script.turns = append(g.script.turns, turn{tls: &p, candidateTLS: &n})
}

// hello plants in the set of extensions.
func (g *generator) hello(more ...string) {
	keywords := []string{"PIPELINING", "SIZE 10240000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8", "CHUNKING", "AUTH PLAIN LOGIN", "VRFY", "ETRN"}
	g.Shuffle(len(keywords), func(i, j int) { keywords[i], keywords[j] = keywords[j], keywords[i] })
	keywords = keywords[:3+g.IntN(len(keywords)-3)]
	got := slices.Clone(keywords)
	g.size = slices.Contains(keywords, "SIZE 10240000")
	if g.plant() {
		switch i := g.IntN(len(got)); {
		case got[i] == "SIZE 10240000" && g.IntN(2) == 0:
			got[i] = "SIZE 5120000"
			g.differs("EHLO keyword SIZE: 10240000 -> 5120000")
		case got[i] == "AUTH PLAIN LOGIN" && g.IntN(2) == 0:
			got[i] = "AUTH LOGIN"
			g.differs("EHLO keyword AUTH: PLAIN -> ")
		case g.IntN(4) == 0:
			got = append(got, "REQUIRETLS")
			g.differs("EHLO keyword REQUIRETLS:  -> offered")
		default:
			keyword, value, _ := strings.Cut(got[i], " ")
			if value = strings.Join(slices.Sorted(strings.FieldsSeq(value)), ", "); value == "" {
				value = "offered"
			}
			got = slices.Delete(got, i, i+1)
			g.differs("EHLO keyword %s: %s -> ", keyword, value)
			g.size = g.size && keyword != "SIZE"
		}
	}
	keywords, got = append(keywords, more...), append(got, more...)
	g.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
	if g.IntN(4) == 0 {
		got = append(got, "XCLIENT NAME ADDR PROTO HELO")
	}
	if g.script.options.Mode == Sink {
		got = append(got, Proof+" "+g.script.options.Token)
	}
	reply := func(side int, keywords []string) string {
		lines := append([]string{g.host(side) + fmt.Sprintf(" Hello client.example [198.51.100.%d], pleased to meet you", g.IntN(200))}, keywords...)
		return "250-" + strings.Join(lines[:len(lines)-1], "\r\n250-") + "\r\n250 " + lines[len(lines)-1] + "\r\n"
	}
	g.turn("EHLO client.example\r\n", reply(0, keywords), reply(1, got))
}

// generate makes a session of so many mails with so many differences at most.
func generate(seed uint64, mails, plants int) script {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 6)), plants: plants}
	g.style = g.IntN(len(software))
	g.turns = 3 + 5*mails
	g.script = script{name: fmt.Sprintf("seed %d", seed), keep: 1 << 16}
	if g.IntN(2) == 0 {
		g.script.options = Options{Mode: Sink, Token: "9f2c77"}
	}
	w := software[g.style]
	g.simple(greeting, "", "220", w.greeting, g.host(0))
	if g.IntN(2) == 0 {
		g.turns += 3
		g.hello("STARTTLS")
		g.secure()
	}
	g.hello()
	for i := range mails {
		from, to := fmt.Sprintf("ann%d@client.example", g.IntN(1000)), fmt.Sprintf("bob%d@here.example", i)
		parameters := ""
		if g.size && g.IntN(2) == 0 {
			parameters = fmt.Sprintf(" SIZE=%d", g.IntN(9999))
		}
		g.simple("MAIL", "MAIL FROM:<"+from+">"+parameters+"\r\n", "250", w.sender, from)
		for range 1 + g.IntN(3) {
			g.simple("RCPT", "RCPT TO:<"+to+">\r\n", "250", w.recipient, to)
		}
		if g.IntN(3) == 0 {
			g.simple("NOOP", "NOOP\r\n", "250", w.noop, "")
		}
		g.turn("DATA\r\n", "354 "+w.data+"\r\n", "354 "+w.data+"\r\n")
		if body := "Subject: hello\r\n\r\nHello\r\n.\r\n"; g.script.options.Mode == Sink {
			g.simple(content, body, "250", w.done, g.id())
		} else {
			g.turn(body, "250 "+fmt.Sprintf(w.done, g.id())+"\r\n", "250 no one asks\r\n")
		}
	}
	g.simple("QUIT", "QUIT\r\n", "221", w.bye, "")
	return g.script
}

// Whatever is planted where is found, and nothing else is.
func TestWhatIsPlantedAtRandomIsFound(t *testing.T) {
	var total score
	plain, secured := 0, 0
	for seed := range uint64(600) {
		s := generate(seed, 1+int(seed%6), int(seed%5))
		order := schedule{Rand: rand.New(rand.NewPCG(seed, 7))}
		r := playScript(s, New(s.options)(s.session()), order)
		got := judge(r.exchanges)
		total.add(s.differs, got.differs)
		if !slices.Equal(s.differs, got.differs) {
			t.Errorf("seed %d: differs %q, want %q", seed, got.differs, s.differs)
		}
		if len(r.exchanges) != len(s.turns) {
			t.Errorf("seed %d: %d exchanges, want %d", seed, len(r.exchanges), len(s.turns))
		}
		if len(s.noise) > 0 && !slices.ContainsFunc(got.excused, func(e string) bool {
			return strings.HasPrefix(e, "RCPT greylisting code") || strings.HasPrefix(e, "RCPT identity code")
		}) {
			t.Errorf("seed %d: the noise is not excused: %q", seed, got.excused)
		}
		for _, x := range r.exchanges {
			if x.Verdict == shadow.Dropped || x.Verdict == shadow.Opaque {
				t.Errorf("seed %d: %s is %s: %s", seed, x.Endpoint, x.Verdict, x.Reason)
			}
		}
		if len(s.differs) == 0 {
			plain++
		}
		if slices.ContainsFunc(s.differs, func(d string) bool { return strings.HasPrefix(d, "TLS ") }) {
			secured++
		}
	}
	total.judge(t)
	if total.right < 300 || plain < 100 || secured < 20 {
		t.Errorf("%d planted, %d of them in handshakes, %d sessions without: the generator makes too little", total.right, secured, plain)
	}
}
