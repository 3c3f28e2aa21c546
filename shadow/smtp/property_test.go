package smtp

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/shadow"
)

// timeless leaves out of exchanges when things happened.
func timeless() cmp.Option {
	return cmp.Options{cmpopts.IgnoreFields(shadow.Reply{}, "Asked", "First", "Last"), cmpopts.EquateEmpty()}
}

// However bytes are cut, and whoever is faster, the result is the same.
func TestTheResultDependsOnNeitherCutsNorHaste(t *testing.T) {
	for _, s := range truths(t) {
		want := playScript(s, New(s.options)(s.session()), schedule{})
		for seed := range uint64(10) {
			order := schedule{Rand: rand.New(rand.NewPCG(seed, 1)), patient: seed%4 == 0}
			got := playScript(s, New(s.options)(s.session()), order)
			if failsInHaste(s) { // how far the candidate has come when it ends is its own haste
				got.raw = want.raw
			}
			if diff := cmp.Diff(want.exchanges, got.exchanges, timeless()); diff != "" {
				t.Fatalf("%s, seed %d: exchanges (-want +got):\n%s", s.name, seed, diff)
			}
			if want.raw != got.raw {
				t.Fatalf("%s, seed %d: the candidate hears %q, want %q", s.name, seed, got.raw, want.raw)
			}
		}
	}
}

// failsInHaste says whether the session may end before the candidate has got what
// came before.
func failsInHaste(s script) bool {
	return s.name == "data-abort: a dot in a chunk is not sent" || strings.Contains(s.coverage, "opaque") ||
		slices.ContainsFunc(s.turns, func(t turn) bool { return t.primaryEnd != "" || t.candidateEnd != "" })
}

// The candidate hears nothing before it has greeted.
func TestNothingIsSentBeforeTheGreeting(t *testing.T) {
	d := New(Options{XCLIENT: true})(script{keep: 1 << 16}.session())
	for _, e := range []shadow.Event{
		{From: shadow.Primary, Bytes: []byte("220 old.example\r\n")},
		{From: shadow.Client, Bytes: []byte("EHLO client.example\r\n")},
		{From: shadow.Primary, Bytes: []byte("250 old.example\r\n")},
		{From: shadow.Candidate, Bytes: []byte("220-new.example\r\n220 ")},
	} {
		if m := d.Hear(e); len(m.Send) > 0 || !m.Owed {
			t.Errorf("behind %q it sends %q, owed %v", e.Bytes, m.Send, m.Owed)
		}
	}
	if m := d.Hear(shadow.Event{From: shadow.Candidate, Bytes: []byte("go\r\n")}); string(m.Send) != "EHLO client.example\r\n" {
		t.Errorf("behind the greeting it sends %q", m.Send)
	}
}

// A babbler makes up dialogues: plausible enough to come far, and wrong often.
type babbler struct{ *rand.Rand }

func (b babbler) one(of ...string) string { return of[b.IntN(len(of))] }

func (b babbler) client() string {
	switch b.IntN(30) {
	case 0, 1, 14, 15, 16, 17:
		return b.one("EHLO a.example", "EHLO a.example", "EHLO a.example", "HELO a", "LHLO a", "ehlo x") + "\r\n"
	case 2, 3, 18, 19:
		return "MAIL FROM:<a@b>" + b.one("", "", " SIZE=10", " BODY=8BITMIME", " SMTPUTF8", " X=1") + "\r\n"
	case 4, 5, 20:
		return "RCPT TO:<c@d>" + b.one("", "", " NOTIFY=NEVER") + "\r\n"
	case 6, 7, 21, 22, 23:
		return b.one("DATA", "DATA", "DATA", "data", " DATA", "DATA x", "DATA\t") + "\r\n"
	case 8:
		return b.one("line\r\n.\r\n", ".\r\n", "..\r\n\r\n.\r\n", "x\n.\r\n", "x\r\n.\n", "\r.\r", "text without an end", "\n.\n")
	case 9:
		n := b.IntN(20)
		return fmt.Sprintf("%s %d%s\r\n%s", b.one("BDAT", "bdat", "BDAT"), n, b.one("", " last", " last"), b.one(strings.Repeat("x", n), "\r\n.\r\nDATA\r\nx\r\n.\r\n", "DATA\r\n"))
	case 10:
		return b.one("RSET", "NOOP", "NOOP DATA", "VRFY DATA", "HELP", "EXPN x", "QUIT", "ETRN x", "TURN", "BURL x", "XCLIENT ADDR=1.2.3.4", "XEXCH50 2 2", "SEND FROM:<a>", "SAML FROM:<a>") + "\r\n"
	case 11:
		return b.one("STARTTLS\r\nNOOP\r\n", "AUTH PLAIN x\r\n", "NOOP\n", "NO\rDATA\r\n", "NOOP \x00DATA\r\n", "GET / HTTP/1.1\r\n", "\x16\x03\x01")
	case 28, 29:
		return b.one("STARTTLS\r\n", "EHLO a.example\r\nSTARTTLS\r\n", "EHLO a.example\r\nSTARTTLS\r\n")
	case 12, 24, 25, 26:
		return "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n"
	}
	return b.noise()
}

func (b babbler) server(token string) string {
	switch b.IntN(12) {
	case 0, 1:
		return "220 x ready\r\n"
	case 2, 3:
		return "250-x\r\n250-SIZE 10\r\n250-CHUNKING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-XCLIENT ADDR HELO\r\n250 " + b.one("DSN", "X", Proof+" "+token, Proof, Proof+" wrong") + "\r\n"
	case 4, 5, 6:
		return "250 2.0.0 Ok\r\n"
	case 7, 8:
		return "354 go on\r\n"
	case 9:
		return b.one("421 bye\r\n", "550 5.1.1 no\r\n", "451 4.7.1 later\r\n", "221 bye\r\n", "503 x\r\n", "334 x\r\n")
	case 10:
		return b.one("250-\r\n", "250\n", "250-a\r\n550 b\r\n", "25", "\r\n", "junk\r\n", strings.Repeat("250-x\r\n", 50), strings.Repeat("y", 3000))
	}
	return b.noise()
}

// next is who says something: mostly who was asked.
func (b babbler) next(asked map[shadow.Party]string) shadow.Party {
	if asked[begun] != "" && b.IntN(8) > 0 {
		return shadow.Primary
	}
	for _, who := range []shadow.Party{shadow.Primary, shadow.Candidate} {
		if asked[who] != "" && b.IntN(8) > 0 {
			return who
		}
	}
	return shadow.Party(b.IntN(3))
}

// reply is mostly what a server says to that.
func (b babbler) reply(asked, token string) string {
	if b.IntN(25) == 0 {
		return b.server(token)
	}
	if asked == "" {
		return ""
	}
	verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimRight(asked, "\r\n")), " ")
	switch verb {
	case "":
		return "220 x ready\r\n"
	case "EHLO":
		if strings.HasSuffix(asked, "STARTTLS\r\n") {
			return "250-x\r\n250-STARTTLS\r\n250 8BITMIME\r\n220 go\r\n"
		}
		return "250-x\r\n250-SIZE 10\r\n250-CHUNKING\r\n250-STARTTLS\r\n250-8BITMIME\r\n" + b.one("250-"+Proof+" "+token+"\r\n", "") + "250 DSN\r\n"
	case "STARTTLS":
		return b.one("220 go\r\n", "220 go\r\n", "220 go\r\n", "220 go\r\n", "220 go\r\n", "220 go\r\n", "220 go\r\n250 x\r\n", "220 go\r\n25", "250 x\r\n", "454 x\r\n")
	case "DATA":
		return "354 go on\r\n"
	case "QUIT":
		return "221 bye\r\n"
	}
	return strings.Repeat("250 2.0.0 Ok\r\n", max(1, strings.Count(asked, "\n")*b.IntN(2)))
}

func (b babbler) noise() string {
	text := make([]byte, b.IntN(8))
	for i := range text {
		text[i] = "\r\n. DATABQUIT250-\x00\xff"[b.IntN(19)]
	}
	return string(text)
}

// A babble is what came of one.
type babble struct {
	sent      []byte
	secured   int // how often the candidate was to be
	exchanges []shadow.Exchange
}

// begin has TLS begin now and then, mostly where it may.
func (b babbler) begin(e *shadow.Event, text *string, asked map[shadow.Party]string, securing bool) {
	switch {
	case e.From == shadow.Candidate && securing && b.IntN(5) > 0, e.From == shadow.Candidate && b.IntN(300) == 0:
		e.TLS = &shadow.Handshake{Version: tls.VersionTLS13, Failed: b.one("", "", "", "as it does")}
		*text = ""
	case e.From == shadow.Primary && asked[begun] != "" && b.IntN(4) > 0, e.From == shadow.Primary && b.IntN(300) == 0:
		e.TLS = &shadow.Handshake{Version: tls.VersionTLS13, Failed: b.one("", "", "", "", "", "", "", "", "", "", "", "as it does")}
		*text, asked[begun] = "", ""
	case e.From == shadow.Primary && b.IntN(300) == 0:
		e.Opaque, *text = "HTTP/2", ""
	case e.From == shadow.Primary && strings.Contains(*text, "220 go\r\n"):
		asked[begun] = "TLS"
	}
}

// begun is where a babbler notes that TLS may begin.
const begun = shadow.Party(9)

// babbled runs a driver between three babblers, who answer often enough to come to
// content, and checks what holds always.
func babbled(t testing.TB, b babbler, o Options, control bool, check func(sent []byte)) babble {
	t.Helper()
	const keep = 1 << 12
	s := script{keep: keep, control: control}.session()
	d := New(o)(s)
	var got babble
	bound, fin, data := 3*(4*keep+16<<10)+64<<10, false, false
	asked := map[shadow.Party]string{shadow.Primary: "\r\n", shadow.Candidate: "\r\n"} // the greeting
	securing := false                                                                  // the candidate
	for range 20 + b.IntN(120) {
		e := shadow.Event{At: start}
		text := ""
		switch e.From = b.next(asked); e.From {
		case shadow.Client:
			if text = b.client(); data && b.IntN(4) > 0 {
				text = "line\r\n.\r\n"
			}
			data = false
			asked[shadow.Primary] = text
		case shadow.Primary, shadow.Candidate:
			text = b.reply(asked[e.From], o.Token)
			data = data || e.From == shadow.Primary && strings.HasPrefix(text, "354")
			asked[e.From] = ""
		}
		b.begin(&e, &text, asked, securing)
		if b.IntN(150) == 0 {
			e.End = []shadow.End{shadow.Closed, shadow.Reset, shadow.TimedOut, shadow.Refused}[b.IntN(4)]
		}
		e.Bytes = []byte(text)
		m := d.Hear(e)
		for i := range e.Bytes {
			e.Bytes[i] = '!' // it was lent
		}
		if fin && (len(m.Send) > 0 || m.FIN) {
			t.Fatalf("%q and FIN %v behind FIN", m.Send, m.FIN)
		}
		securing = securing && (e.From != shadow.Candidate || e.TLS == nil && e.End == shadow.Open)
		if securing && len(m.Send) > 0 || m.Secure != nil && (len(m.Send) > 0 || fin) {
			t.Fatalf("%q is sent where TLS is to begin, FIN %v", m.Send, fin)
		}
		if m.Secure != nil {
			securing, asked[shadow.Candidate] = true, "TLS"
			got.secured++
		}
		fin = fin || m.FIN
		asked[shadow.Candidate] += string(m.Send)
		got.sent = append(got.sent, m.Send...)
		got.exchanges = append(got.exchanges, m.Exchanges...)
		if held := d.Held(); held < 0 || held > bound {
			t.Fatalf("it holds %d bytes, bound is %d", held, bound)
		}
		if m.Done {
			break
		}
	}
	check(got.sent)
	rest := d.Stop(shadow.Dropped, "over")
	got.exchanges = append(got.exchanges, rest...)
	if len(got.exchanges) == 0 || got.exchanges[0].Endpoint != greeting {
		t.Fatalf("the exchanges are %v, want the greeting first", got.exchanges)
	}
	if held := d.Held(); held > 3*keep+8192 {
		t.Fatalf("it holds %d bytes behind Stop", held)
	}
	for _, x := range got.exchanges {
		checkExchange(t, x)
	}
	return got
}

func checkExchange(t testing.TB, x shadow.Exchange) {
	t.Helper()
	switch {
	case x.Verdict == "" && (len(x.Primary.Fields) == 0 || len(x.Candidate.Fields) == 0):
		t.Fatalf("%+v is to be compared and has no replies", x)
	case x.Verdict != "" && x.Reason == "":
		t.Fatalf("%+v has no reason", x)
	case !slices.Contains([]string{
		greeting, content, other, "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "QUIT", "AUTH", "STARTTLS", shadow.Handshaken,
	}, x.Endpoint):
		t.Fatalf("endpoint %q is none", x.Endpoint)
	}
	shadow.Differences(x, Noise())
}

// In mode envelope, whatever anybody says, each line that is sent is an allowed
// command and no byte can be taken for more than one line.
func TestNoMailCanBeDeliveredInModeEnvelope(t *testing.T) {
	reached, secured := 0, 0
	for seed := range uint64(2000) {
		b := babbler{rand.New(rand.NewPCG(seed, 2))}
		got := babbled(t, b, Options{XCLIENT: seed%3 == 0}, false, harmless(t, seed))
		secured += got.secured
		if bytes.Contains(got.sent, []byte("RCPT")) {
			reached++
		}
	}
	if reached < 50 || secured < 50 {
		t.Errorf("RCPT was reached %d times, TLS %d times: the test shows nothing", reached, secured)
	}
}

// harmless checks that all that was sent are whole lines of allowed verbs.
func harmless(t testing.TB, seed uint64) func([]byte) {
	return func(sent []byte) {
		t.Helper()
		text, ok := strings.CutSuffix(string(sent), "\r\n")
		if !ok && len(sent) > 0 {
			t.Fatalf("seed %d: %q ends within a line", seed, sent)
		}
		if len(sent) == 0 {
			return
		}
		for line := range strings.SplitSeq(text, "\r\n") {
			verb, _, _ := strings.Cut(line, " ")
			if strings.ContainsAny(line, "\r\n") || !slices.Contains(
				[]string{"EHLO", "HELO", "LHLO", "MAIL", "RCPT", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "QUIT", "XCLIENT", "STARTTLS"}, strings.ToUpper(verb)) {
				t.Fatalf("seed %d: the candidate hears %q", seed, line)
			}
		}
	}
}

// The primary is asked a second time only what changes nothing.
func TestThePrimaryIsAskedAgainOnlyWhatChangesNothing(t *testing.T) {
	for seed := range uint64(1500) {
		b := babbler{rand.New(rand.NewPCG(seed, 3))}
		o := Options{Mode: []Mode{Envelope, DataAbort, Sink}[seed%3], Token: "t0k", XCLIENT: true}
		got := babbled(t, b, o, true, harmless(t, seed))
		for _, verb := range []string{"MAIL", "RCPT", "VRFY", "EXPN", "XCLIENT", "DATA", "BDAT"} {
			if bytes.Contains(bytes.ToUpper(append([]byte("\r\n"), got.sent...)), []byte("\r\n"+verb+" ")) {
				t.Fatalf("seed %d: %q has %s", seed, got.sent, verb)
			}
		}
	}
}

// In mode data-abort (where we say LAST in capitals, and this client does not) no CRLF.CRLF and nothing that lenient servers take for it is
// ever sent, and no last chunk.
func TestNoContentIsEndedInModeDataAbort(t *testing.T) {
	reached := 0
	for seed := range uint64(3000) {
		b := babbler{rand.New(rand.NewPCG(seed, 4))}
		got := babbled(t, b, Options{Mode: DataAbort}, false, func(sent []byte) {
			loose := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(sent))
			if strings.Contains(loose, "\n.\n") || strings.Contains(loose, " LAST\n") {
				t.Fatalf("seed %d: the candidate hears %q", seed, sent)
			}
		})
		if bytes.Contains(bytes.ToUpper(got.sent), []byte("\nDATA\r\n")) || bytes.Contains(got.sent, []byte("BDAT")) {
			reached++
		}
	}
	if reached < 50 {
		t.Errorf("content was reached %d times: the test shows nothing", reached)
	}
}

// In mode sink nothing of DATA goes to who has not shown the token in its last EHLO
// reply: one that babbles of it elsewhere has not.
func TestOnlyAProvenSinkGetsContent(t *testing.T) {
	reached := 0
	for seed := range uint64(2000) {
		b := babbler{rand.New(rand.NewPCG(seed, 5))}
		proof := "t0k" + fmt.Sprint(seed) // of another session
		d := babbled(t, b, Options{Mode: Sink, Token: proof + "x"}, false, func([]byte) {})
		if bytes.Contains(d.sent, []byte(proof)) {
			t.Fatalf("seed %d: the token is sent", seed)
		}
		reached += bytes.Count(bytes.ToUpper(d.sent), []byte("\nDATA\r\n"))
	}
	if reached < 20 {
		t.Errorf("content was reached %d times: the test shows nothing", reached)
	}
	for seed := range uint64(2000) {
		b := babbler{rand.New(rand.NewPCG(seed, 5))}
		o := Options{Mode: Sink, Token: "right"}
		unproven := liar{b}
		unproven.check(t, seed, o)
	}
}

// A liar says all but the token.
type liar struct{ babbler }

func (l liar) check(t testing.TB, seed uint64, o Options) {
	t.Helper()
	d := New(o)(script{keep: 1 << 12}.session())
	var sent []byte
	for range 80 {
		e := shadow.Event{At: start, From: shadow.Party(l.IntN(3))}
		if e.From == shadow.Client {
			e.Bytes = []byte(l.client())
		} else {
			e.Bytes = []byte(l.server(l.one("wrong", "right x", "Right", "")))
		}
		m := d.Hear(e)
		if sent = append(sent, m.Send...); m.Done {
			break
		}
	}
	harmless(t, seed)(sent)
}
