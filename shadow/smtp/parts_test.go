package smtp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

func TestContentEndsAtExactlyCRLFDotCRLF(t *testing.T) {
	for _, test := range []struct {
		content string
		found   finding
		at      int
		passed  string
	}{
		{".\r\n", complete, 3, ""},
		{"x\r\n.\r\nQUIT", complete, 6, "x\r\n"},
		{"..\r\n.\r\n", complete, 7, "..\r\n"},
		{".x\r\n", nothing, 4, ".x\r\n"},
		{"x.\r\n", nothing, 4, "x.\r\n"},
		{"x\r\n.", nothing, 4, "x\r\n"},
		{"x\r\n.\r", nothing, 5, "x\r\n"},
		{"x\n.\n", smuggled, 4, "x\n"},
		{"x\n.\r\n", smuggled, 5, "x\n"},
		{"x\r\n.\n", smuggled, 5, "x\r\n"},
		{"x\r.\r", nothing, 4, "x\r"}, // and what comes next tells
		{"x\r.\rx", smuggled, 5, "x\r"},
		{"x\r\n.\rx", smuggled, 6, "x\r\n"},
		{"x\n..\n", nothing, 5, "x\n..\n"},
		{"\r\r\n.\r\n", complete, 6, "\r\r\n"},
	} {
		for piece := 1; piece <= len(test.content); piece++ {
			var s scanner
			var passed []byte
			at, found := 0, nothing
			for at < len(test.content) && found == nothing {
				var n int
				n, found = s.scan([]byte(test.content[at:min(at+piece, len(test.content))]), func(b []byte) { passed = append(passed, b...) })
				at += n
			}
			if found != test.found || at != test.at || string(passed) != test.passed {
				t.Errorf("%q in pieces of %d: finding %d at %d, passed %q, want %d at %d, %q", test.content, piece, found, at, passed, test.found, test.at, test.passed)
			}
		}
	}
}

func TestAnExtensionThatACommandUsesIsKnownByItsKeyword(t *testing.T) {
	for line, want := range map[string]string{
		"MAIL FROM:<a@b>":                             "",
		"MAIL FROM:<a@b> SIZE=1 BODY=8BITMIME":        "8BITMIME SIZE",
		"MAIL FROM:<a@b> BODY=BINARYMIME":             "BINARYMIME",
		"MAIL FROM:<a@b> BODY=7BIT":                   "8BITMIME",
		"MAIL FROM:<> RET=HDRS ENVID=x":               "DSN",
		"MAIL FROM:<a@b> AUTH=<>":                     "AUTH",
		"MAIL FROM:<a@b> SMTPUTF8":                    "SMTPUTF8",
		"MAIL FROM:<ä@b>":                             "SMTPUTF8",
		"MAIL FROM:<a@b> BY=120;R MT-PRIORITY=3":      "DELIVERBY MT-PRIORITY",
		"MAIL FROM:<a@b> HOLDFOR=9 REQUIRETLS":        "FUTURERELEASE REQUIRETLS",
		"mail from: a@b size=1":                       "SIZE",
		`MAIL FROM:<"> SIZE=1 \" <"@b> X-OWN`:         "X-OWN",
		"RCPT TO:<@hosta,@jkl.example:user@d> RRVS=1": "RRVS",
		"RCPT TO:<c@d> NOTIFY=NEVER ORCPT=x":          "DSN",
		"BDAT 1 LAST":                                 "CHUNKING",
		"VRFY x SIZE=1":                               "",
	} {
		if got := strings.Join(parseCommand(line).needs(), " "); got != want {
			t.Errorf("%s needs %q, want %q", line, got, want)
		}
	}
}

func TestChunksHaveASizeOrAreNone(t *testing.T) {
	for argument, want := range map[string]string{
		"0 LAST": "0 true true", "86400": "86400 false true", "5 last": "5 true true",
		"": "0 false false", "-1": "0 false false", "+1": "0 false false", "5 FIRST": "0 false false", "1 LAST x": "0 false false", "99999999999999999999": "9223372036854775807 false false",
	} {
		size, last, ok := command{"BDAT", argument}.chunk()
		if got := fmt.Sprint(size, last, ok); got != want {
			t.Errorf("BDAT %s is %s, want %s", argument, got, want)
		}
	}
}

// What differs by itself is masked, and what does not is not.
func TestWordingIsComparedWithoutWhatDiffersByItself(t *testing.T) {
	for text, want := range map[string]string{
		"Ok: queued as 4F2A1B3C9D": "Ok: queued as <id>",
		"Ok: queued as ABCDEFABCD": "Ok: queued as <id>",
		"Ok: queued as 1234567":    "Ok: queued as <id>",
		"from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4F2A1B3C9": "from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as <id>",
		"OK id=1rABcD-0003Xy-2Z":                                                   "OK id=<id>",
		"OK id=1vABcD-00000003Xyz-2ZaB":                                            "OK id=<id>",
		"4AQ7ruKl012345 Message accepted for delivery":                             "<id> Message accepted for delivery",
		"ok 1700000000 qp 12345":                                                   "ok <id> qp <id>",
		"OK  1700000000 a1-20020a05600c1d8100b0038c73cce4casi1234567wms.5 - gsmtp": "OK <id> - gsmtp",
		"Service ready at Thu, 26 Nov 2026 07:53:56 +0000":                         "Service ready at <date>",
		"try again in 00:05:00":                                                    "try again in <time>",
		"pid 4242, from [192.0.2.1] or [IPv6:2001:db8::1]":                         "pid <id>, from [<ip>] or [<ip>]",
		"Message size exceeds fixed limit of 10240000":                             "Message size exceeds fixed limit of 10240000",
		"User unknown in local recipient table":                                    "User unknown in local recipient table",
		"see mx1.old.example for  help":                                            "see <host> for help",
	} {
		if got := maskText(text, "NOOP", nil); got != want {
			t.Errorf("%q is masked as %q, want %q", text, got, want)
		}
	}
	if got := maskText("mx1 closing", "QUIT", nil); got != "<host> closing" {
		t.Errorf("the server's own name is masked as %q", got)
	}
}

// The third time is after the delay: a server that greylists would have let it pass.
func TestGreylistingIsOneOnlyAtFirstContact(t *testing.T) {
	text := `=== x
= 220 x
C HELO c
= 250 x
C MAIL FROM:<a@b>
= 250 2.1.0 Ok
C RCPT TO:<c@d>
P 250 2.1.5 Ok
N 450 4.7.1 Greylisted
`
	scripts, err := parseScripts(text)
	if err != nil {
		t.Fatal(err)
	}
	begin := New(Options{})
	for i, test := range []struct {
		client string
		later  time.Duration
		excuse bool
	}{
		{"198.51.100.7", 0, true},
		{"198.51.100.99", time.Minute, true},
		{"198.51.100.8", time.Hour, false},
		{"198.51.101.8", time.Hour, true},
		{"2001:db8::1", 0, true},
		{"2001:db8::ffff:1", time.Hour, false},
	} {
		s := scripts[0].session()
		s.Client = netip.AddrPortFrom(netip.MustParseAddr(test.client), 4000)
		r := playScript(scripts[0], &later{begin(s), test.later}, schedule{})
		got := judge(r.exchanges)
		if excused := len(got.differs) == 0; excused != test.excuse {
			t.Errorf("contact %d, of %s after %v: differs %q, want excused %v", i, test.client, test.later, got.differs, test.excuse)
		}
	}
}

// later is a driver at a later time.
type later struct {
	shadow.Driver
	by time.Duration
}

func (l *later) Hear(e shadow.Event) shadow.Moves {
	e.At = e.At.Add(l.by)
	return l.Driver.Hear(e)
}

func TestTheGreylistIsBounded(t *testing.T) {
	g := newGreylist()
	for i := range uint64(3 * greyMost) {
		g.first(i, start)
	}
	if len(g.since) != greyMost || len(g.ring) != greyMost {
		t.Errorf("it has %d and %d entries, want %d", len(g.since), len(g.ring), greyMost)
	}
	if g.first(3*greyMost-1, start.Add(time.Hour)) {
		t.Error("the newest is forgotten")
	}
	if !g.first(0, start.Add(time.Hour)) {
		t.Error("the oldest is remembered")
	}
}

func TestOptionsThatProveNothingAreRefused(t *testing.T) {
	for _, o := range []Options{{Mode: "all"}, {Mode: Sink}, {Mode: Sink, Token: "two words"}, {Mode: Sink, Token: "x\r\nDATA"}} {
		if err := o.Check(); err == nil {
			t.Errorf("%+v is accepted", o)
		}
		d := New(o)(script{keep: 1}.session()).(*driver)
		if d.options.Mode != Envelope {
			t.Errorf("%+v is played in mode %s", o, d.options.Mode)
		}
	}
	for _, o := range []Options{{}, {Mode: Envelope}, {Mode: DataAbort}, {Mode: Sink, Token: "a-b.c_1"}} {
		if err := o.Check(); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestXCLIENTTellsWhatIsOfferedAndNoMore(t *testing.T) {
	s := script{keep: 1 << 12}.session()
	s.Client = netip.MustParseAddrPort("[2001:db8::7]:40001")
	d := newDriver(Options{XCLIENT: true}, s, newGreylist())
	for offer, want := range map[string]string{
		"XCLIENT ADDR":                                    "XCLIENT ADDR=IPV6:2001:db8::7\r\n",
		"xclient name addr port helo":                     "XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PORT=40001 HELO=a+2Bb+20c\r\n",
		"XCLIENT NAME ADDR PROTO DESTADDR DESTPORT LOGIN": "XCLIENT NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PROTO=SMTP DESTADDR=192.0.2.25 DESTPORT=25\r\n",
		"XCLIENT NAME HELO":                               "", // no address: it would tell nothing
		"SIZE 1":                                          "",
	} {
		r := &reply{code: 250, lines: []string{"x", offer}}
		if diff := cmp.Diff(want, d.xclient(r, command{"HELO", "a+b c"})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", offer, diff)
		}
	}
}

// What was asked when is paired: from the request's last byte to the reply's first.
func TestLatencyIsOfTheSameExchange(t *testing.T) {
	d := New(Options{})(script{keep: 1 << 12}.session())
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	hear := func(from shadow.Party, ms int, text string) []shadow.Exchange {
		return d.Hear(shadow.Event{From: from, Bytes: []byte(text), At: at(ms)}).Exchanges
	}
	hear(shadow.Primary, 0, "220 x\r\n")
	hear(shadow.Client, 10, "EH")
	hear(shadow.Client, 20, "LO c\r\n")
	hear(shadow.Primary, 25, "250-x\r\n")
	hear(shadow.Primary, 26, "250 SIZE\r\n")
	hear(shadow.Candidate, 30, "220 x\r\n")
	hear(shadow.Candidate, 40, "250-x\r\n")
	all := hear(shadow.Candidate, 47, "250 SIZE\r\n")
	if len(all) != 1 {
		t.Fatalf("%d exchanges, want 1", len(all))
	}
	p, c := all[0].Primary, all[0].Candidate
	want := [6]time.Time{at(20), at(25), at(26), at(30), at(40), at(47)}
	if got := [6]time.Time{p.Asked, p.First, p.Last, c.Asked, c.First, c.Last}; got != want {
		t.Errorf("the times are %v, want %v", got, want)
	}
	if p.Bytes != 17 || c.Bytes != 17 {
		t.Errorf("the replies have %d and %d bytes, want 17", p.Bytes, c.Bytes)
	}
}
