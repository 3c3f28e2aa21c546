package smtp

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// tell has a driver hear lines: "P 220 x", "N 221 x", "C QUIT"; "P closes" is an end.
// It returns all that it sent, and the exchanges in words.
func tell(t *testing.T, d shadow.Driver, lines ...string) (sent string, became []string, last shadow.Moves) {
	t.Helper()
	parties := map[byte]shadow.Party{'C': shadow.Client, 'P': shadow.Primary, 'N': shadow.Candidate}
	for i, line := range lines {
		e := shadow.Event{From: parties[line[0]], At: start}
		if end, ok := ends()[line[2:]]; ok {
			e.End = end
		} else {
			e.Bytes = []byte(line[2:] + "\r\n")
		}
		last = d.Hear(e)
		sent += string(last.Send)
		if last.FIN {
			sent += "FIN"
		}
		for _, x := range last.Exchanges {
			became = append(became, strings.TrimSpace(x.Endpoint+" "+string(x.Verdict)))
		}
		if last.Done && i < len(lines)-1 {
			t.Errorf("it is done behind %q", line)
		}
	}
	return sent, became, last
}

func begin(t *testing.T, o Options, keep int) shadow.Driver {
	t.Helper()
	d := New(o)(script{keep: keep}.session())
	tell(t, d, "P 220 x", "N 220 x", "C EHLO c", "P 250-x", "P 250 SIZE", "N 250-x", "N 250-"+Proof+" tok", "N 250 SIZE")
	return d
}

func TestACandidateThatTiresWhileThePrimaryGetsContentIsNotToBlame(t *testing.T) {
	for _, how := range []string{"N 421 4.4.2 x Error: timeout exceeded", "N closes", "N resets"} {
		d := begin(t, Options{}, 1<<12)
		_, became, _ := tell(t, d,
			"C MAIL FROM:<a@b>", "P 250 x", "N 250 x", "C RCPT TO:<c@d>", "P 250 x", "N 250 x",
			"C DATA", "P 354 x", "N 250 reset", "C hello", how, "C .", "P 250 x", "C MAIL FROM:<a@b>", "P 250 x", "C QUIT", "P 221 x")
		want := []string{"MAIL", "RCPT", "DATA skipped", "content skipped", "MAIL skipped", "QUIT skipped"}
		if diff := cmp.Diff(want, became); diff != "" {
			t.Errorf("%s (-want +got):\n%s", how, diff)
		}
	}
}

// 421 that nobody asked for is the answer to what comes next, as clients read it.
func TestALastWordIsTheAnswerToWhatComesNext(t *testing.T) {
	d := begin(t, Options{}, 1<<12)
	sent, became, last := tell(t, d, "N 421 4.3.2 x Shutting down", "C NOOP", "P 250 x", "C QUIT", "P 221 x", "P closes")
	if diff := cmp.Diff([]string{"NOOP", "QUIT candidate_error"}, became); diff != "" || sent != "FIN" || !last.Done {
		t.Errorf("it sends %q, done %v (-want +got):\n%s", sent, last.Done, diff)
	}
	d = begin(t, Options{}, 1<<12)
	sent, became, last = tell(t, d, "P 421 4.3.2 x Shutting down", "C NOOP", "N 250 x", "P closes", "N 250 reset", "N 221 bye")
	if diff := cmp.Diff([]string{"NOOP"}, became); diff != "" || sent != "NOOP\r\nRSET\r\nQUIT\r\nFIN" || !last.Done {
		t.Errorf("it sends %q, done %v (-want +got):\n%s", sent, last.Done, diff)
	}
}

// Where it parts from the primary, its session ends with RSET and QUIT, each when
// the one before is answered; what the client still says is counted.
func TestADialogueThatPartsEndsPolitely(t *testing.T) {
	d := begin(t, Options{}, 1<<12)
	for _, step := range []struct{ line, sends string }{
		{"C MAIL FROM:<a@b>", "MAIL FROM:<a@b>\r\n"},
		{"P 250 x", ""},
		{"C RCPT TO:<c@d>", ""},
		{"N 550 no", "RSET\r\n"},
		{"P 250 x", ""},
		{"N 250 x", "QUIT\r\n"},
		{"N 221 x", "FIN"},
		{"C QUIT", ""},
		{"N closes", ""},
	} {
		if sent, _, last := tell(t, d, step.line); sent != step.sends || last.Done {
			t.Errorf("behind %q it sends %q, done %v, want %q", step.line, sent, last.Done, step.sends)
		}
	}
	if _, became, last := tell(t, d, "P 221 x", "P closes"); len(became) != 1 || became[0] != "QUIT after_divergence" || !last.Done {
		t.Errorf("the rest is %q, done %v", became, last.Done)
	}
}

// What has its turn is passed on, however large: only what waits is bounded.
func TestASinkGetsMailsLargerThanWhatIsKept(t *testing.T) {
	d := begin(t, Options{Mode: Sink, Token: "tok"}, 200)
	tell(t, d, "C DATA", "P 354 x", "N 354 x")
	line := strings.Repeat("x", 150)
	for range 1000 {
		if sent, _, _ := tell(t, d, "C "+line); sent != line+"\r\n" {
			t.Fatalf("it sends %q", sent)
		}
	}
	if _, became, _ := tell(t, d, "C .", "P 250 x", "N 250 x"); len(became) != 1 || became[0] != "content" {
		t.Errorf("the exchanges are %q", became)
	}
}

// Content ends for the candidate when the primary has said that it ends there.
func TestASinkHasTheEndOfContentWhenThePrimaryHasAnsweredIt(t *testing.T) {
	d := begin(t, Options{Mode: Sink, Token: "tok"}, 1<<12)
	tell(t, d, "C DATA", "P 354 x", "N 354 x")
	if sent, _, last := tell(t, d, "C hello", "C ..", "C ."); sent != "hello\r\n..\r\n" || last.Owed {
		t.Errorf("before the primary's answer it sends %q, owed %v", sent, last.Owed)
	}
	if sent, _, last := tell(t, d, "P 250 x"); sent != ".\r\n" || !last.Owed {
		t.Errorf("behind it, it sends %q, owed %v", sent, last.Owed)
	}
	if _, became, _ := tell(t, d, "N 250 x"); len(became) != 1 || became[0] != "content" {
		t.Errorf("the exchanges are %q", became)
	}
}

// Content is cut off, not ended, when a session breaks: nothing is delivered.
func TestContentThatBreaksOffIsNotEnded(t *testing.T) {
	for name, lines := range map[string][]string{
		"the client resets": {"C resets"}, "the primary closes": {"P closes"}, "the primary says 421": {"P 421 x"},
		"the primary answers early": {"P 250 x"}, "the client smuggles": {"C x\n."}, "the candidate has enough": {"N 552 x", "C .", "P 250 x"},
	} {
		d := begin(t, Options{Mode: Sink, Token: "tok"}, 1<<12)
		tell(t, d, "C DATA", "P 354 x", "N 354 x")
		sent, _, _ := tell(t, d, append([]string{"C hello"}, lines...)...)
		if !strings.HasSuffix(sent, "FIN") || strings.Contains(sent, "\r\n.") {
			t.Errorf("%s: it sends %q", name, sent)
		}
	}
}

func TestAPasswordIsNeitherSentNorKept(t *testing.T) {
	d := begin(t, Options{Mode: Sink, Token: "tok"}, 1<<12)
	m := d.Hear(shadow.Event{From: shadow.Client, Bytes: []byte("AUTH PLAIN c2VjcmV0\r\nc2VjcmV0\r\n")})
	if text := fmt.Sprintf("%s %+v %+v", m.Send, m.Exchanges, d.Stop(shadow.Dropped, "over")); strings.Contains(text, "c2VjcmV0") {
		t.Errorf("the password is in %s", text)
	}
}

// A candidate that lags costs no more memory than this, whatever the client and the
// primary say meanwhile; what was said before is compared when it comes.
func TestACandidateThatLagsCostsBoundedMemory(t *testing.T) {
	const keep = 4 << 10
	for name, lines := range map[string][2]string{
		"commands": {"NOOP", "250 x"},
		"replies":  {"NOOP", "250 " + strings.Repeat("x", 1500)},
		"requests": {"NOOP " + strings.Repeat("x", 3000), "250 x"},
	} {
		d := begin(t, Options{}, keep)
		for range 5000 {
			tell(t, d, "C "+lines[0], "P "+lines[1])
		}
		if bound := 2*(4*keep+16<<10) + 2*keep; d.Held() > bound {
			t.Errorf("%s: it holds %d bytes, want %d at most", name, d.Held(), bound)
		}
		var became []string
		for range 5000 {
			_, more, last := tell(t, d, "N "+lines[1])
			if became = append(became, more...); last.Done {
				break
			}
		}
		if n := len(became); n < 5 || became[0] != "NOOP" || became[n-1] != "other truncated" {
			t.Errorf("%s: %d exchanges, the last %q", name, n, became[max(0, n-1):])
		}
		if d.Held() != 0 {
			t.Errorf("%s: it holds %d bytes in the end", name, d.Held())
		}
	}
	d := begin(t, Options{}, keep)
	for range 100 { // in one go, and then long replies to all
		tell(t, d, "C NOOP")
	}
	for range 100 {
		tell(t, d, "P 250 "+strings.Repeat("x", 1500))
	}
	if bound := 2*(4*keep+16<<10) + 2*keep; d.Held() > bound {
		t.Errorf("replies to a pipeline: it holds %d bytes, want %d at most", d.Held(), bound)
	}
	d = begin(t, Options{Mode: Sink, Token: "tok"}, keep)
	tell(t, d, "C DATA", "P 354 x")
	for range 1000 {
		tell(t, d, "C "+strings.Repeat("x", 500))
	}
	if d.Held() > 2*keep {
		t.Errorf("content: it holds %d bytes", d.Held())
	}
	sent, became, _ := tell(t, d, "C .", "P 250 x", "N 354 x", "C QUIT", "P 221 x")
	if diff := cmp.Diff([]string{"DATA", "content truncated", "QUIT truncated"}, became); diff != "" || sent != "FIN" {
		t.Errorf("it sends %q (-want +got):\n%s", sent, diff)
	}
}

func TestStopSaysOfEachExchangeWhyItWasNotCompared(t *testing.T) {
	d := New(Options{})(script{keep: 1 << 12}.session())
	if all := d.Stop(shadow.Dropped, "over budget"); len(all) != 1 || all[0].Verdict != shadow.Dropped || all[0].Reason != "over budget" {
		t.Errorf("before anything was said it returns %+v", all)
	}
	d = New(Options{})(script{keep: 1 << 12}.session())
	tell(t, d, "P 220 x", "C EHLO c", "P 250 x", "C MAIL FROM:<a@b>", "C NOOP\nx")
	var became []string
	for _, x := range d.Stop(shadow.CandidateError, "it hangs") {
		became = append(became, x.Endpoint+" "+string(x.Verdict))
	}
	want := []string{"greeting candidate_error", "EHLO candidate_error", "MAIL candidate_error", "other opaque"}
	if diff := cmp.Diff(want, became); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What comes in the place of a command, or of its size, may be anything that a user
// has said: reasons are shown as they are.
func TestNoReasonHasAWordOfAClient(t *testing.T) {
	for _, line := range []string{"C SECRETWORD of mine", "C BDAT SECRETWORD", "C secretword"} {
		d := begin(t, Options{}, 1<<12)
		var all []shadow.Exchange
		for _, e := range []shadow.Event{
			{From: shadow.Client, Bytes: []byte(line[2:] + "\r\n"), At: start},
			{From: shadow.Primary, Bytes: []byte("334 go on\r\n"), At: start},
		} {
			all = append(all, d.Hear(e).Exchanges...)
		}
		all = append(all, d.Stop(shadow.Dropped, "over")...)
		for _, x := range all {
			if strings.Contains(strings.ToUpper(x.Reason+x.Endpoint), "SECRET") {
				t.Errorf("%q: the reason is %q", line, x.Reason)
			}
		}
	}
}

// The control hears a command when the client has its answer.
func TestAControlIsAskedAfterTheClientWasAnswered(t *testing.T) {
	t.Parallel()
	d := New(Options{})(shadow.Session{Keep: 1 << 10, Control: true})
	tests := []struct {
		from       shadow.Party
		says, want string
	}{
		{shadow.Primary, "220 old ESMTP\r\n", ""},
		{shadow.Candidate, "220 old ESMTP\r\n", ""},
		{shadow.Client, "EHLO a\r\n", ""},
		{shadow.Primary, "250-old\r\n", ""},
		{shadow.Primary, "250 PIPELINING\r\n", "EHLO a\r\n"},
		{shadow.Candidate, "250-old\r\n250 PIPELINING\r\n", ""},
		{shadow.Client, "MAIL FROM:<a@b>\r\nRSET\r\nNOOP\r\n", ""},
		{shadow.Primary, "250 ok\r\n", ""},
		{shadow.Primary, "250 ok\r\n", "RSET\r\n"},
		{shadow.Primary, "250 ok\r\n", ""},
		{shadow.Candidate, "250 ok\r\n", "NOOP\r\n"},
	}
	for _, test := range tests {
		if got := d.Hear(shadow.Event{From: test.from, Bytes: []byte(test.says)}); string(got.Send) != test.want {
			t.Errorf("behind %q of %v it is sent %q, want %q", test.says, test.from, got.Send, test.want)
		}
	}
}

// Nor one of a server: what it says in the place of a reply is not repeated.
func TestNoReasonHasAWordOfAServer(t *testing.T) {
	for _, who := range []shadow.Party{shadow.Primary, shadow.Candidate} {
		d := begin(t, Options{}, 1<<12)
		var all []shadow.Exchange
		for _, e := range []shadow.Event{
			{From: shadow.Client, Bytes: []byte("NOOP\r\n"), At: start},
			{From: who, Bytes: []byte("250-hello\r\nsecretword@example.com is fine\r\n"), At: start},
			{From: shadow.Primary, Bytes: []byte("250 hello\r\n"), At: start},
		} {
			all = append(all, d.Hear(e).Exchanges...)
		}
		all = append(all, d.Stop(shadow.Dropped, "over")...)
		told := false
		for _, x := range all {
			told = told || strings.Contains(x.Reason, "is no reply of SMTP")
			if strings.Contains(x.Reason, "secret") {
				t.Errorf("party %d: the reason is %q", who, x.Reason)
			}
		}
		if !told {
			t.Errorf("party %d: nobody says that there is no reply: %+v", who, all)
		}
	}
}

// What clients write in the place of parameters is neither in reasons, which are of
// a bounded number, nor told of a request as it is.
func TestParametersAreNamedWhereTheyAreTheProtocols(t *testing.T) {
	for line, want := range map[string]string{
		"MAIL FROM:<a@b> SIZE=10 RET=FULL BODY=8BITMIME NOTIFY=SUCCESS,DELAY":                                              "SIZE=10 RET=FULL BODY=8BITMIME NOTIFY=SUCCESS,DELAY",
		"MAIL FROM: John Secret <secret@example.com>":                                                                      "",
		"RCPT TO:<a@b> secret@x X-SECRET=1 TRANSID=<secret@x> =secret":                                                     "",
		"RCPT TO:<a@b> SIZE=secret RET=SECRET BODY=SECRET NOTIFY=SECRET ORCPT=rfc822;secret@x SMTPUTF8=secret AUTH=secret": "",
	} {
		command := parseCommand(line)
		var plain []string
		for _, f := range (&step{command: command}).request() {
			if f.Plain {
				plain = append(plain, f.Value)
			}
		}
		if got := strings.Join(plain, " "); got != want {
			t.Errorf("%q: told as they are: %q, want %q", line, got, want)
		}
		for _, keyword := range command.needs() {
			if shown := shownExtension(keyword); strings.Contains(strings.ToUpper(shown), "SECRET") {
				t.Errorf("%q: shown is %q", line, shown)
			}
		}
		if reason := lacking(t, line); strings.Contains(strings.ToUpper(reason), "SECRET") || !strings.HasPrefix(reason, "the candidate does not offer ") {
			t.Errorf("%q: the reason is %q", line, reason)
		}
	}
}

// lacking is why a command is not played to a candidate that offers nothing.
func lacking(t *testing.T, line string) string {
	t.Helper()
	d := begin(t, Options{}, 1<<12)
	var all []shadow.Exchange
	hear := func(from shadow.Party, text string) {
		all = append(all, d.Hear(shadow.Event{From: from, Bytes: []byte(text), At: start}).Exchanges...)
	}
	hear(shadow.Client, "EHLO me\r\n")
	hear(shadow.Primary, "250 hello\r\n")
	hear(shadow.Candidate, "250 hello\r\n")
	hear(shadow.Client, line+"\r\n")
	hear(shadow.Primary, "250 fine\r\n")
	all = append(all, d.Stop(shadow.Dropped, "over")...)
	return all[len(all)-1].Reason
}

// Reports mask the numbers of reasons, so one that is told by its numbers tells nothing.
func TestWhyASessionPartedIsSaidWithoutNumbers(t *testing.T) {
	for want, lines := range map[string][]string{
		"the candidate answered RCPT otherwise than the primary": {"C MAIL FROM:<a@b>", "P 250 x", "N 250 x", "C RCPT TO:<c@d>", "P 250 x", "N 550 no"},
		"the candidate refused RSET":                             {"C MAIL FROM:<a@b>", "P 250 x", "N 250 x", "C RCPT TO:<c@d>", "P 250 x", "N 250 x", "C DATA", "P 354 x", "N 500 reset", "C .", "P 250 x"},
		"the candidate closed the session":                       {"C NOOP", "P 250 x", "N 421 bye"},
	} {
		d := begin(t, Options{}, 1<<12)
		tell(t, d, lines...)
		_, _, last := tell(t, d, "C NOOP", "P 250 x")
		var told []string
		for _, x := range append(last.Exchanges, d.Stop(shadow.Dropped, "over")...) {
			told = append(told, x.Reason)
		}
		if reason := strings.Join(told, "; "); !strings.Contains(reason, want) || shadow.MaskNumbers(reason) != reason {
			t.Errorf("the reason is %q, want %q", reason, want)
		}
	}
}

// Who asked for XCLIENT is to hear that the candidate did not take it.
func TestAHelloSaysThatTheCandidateWasNotTold(t *testing.T) {
	for want, lines := range map[string][]string{
		"not offered": {"P 220 x", "N 220 x", "C EHLO c", "P 250-x", "P 250 SIZE", "N 250-x", "N 250 SIZE"},
		"refused":     {"P 220 x", "N 220 x", "C EHLO c", "P 250-x", "P 250 SIZE", "N 250-x", "N 250 XCLIENT ADDR", "N 550 no", "N 250-x", "N 250 SIZE"},
		"":            {"P 220 x", "N 220 x", "C EHLO c", "P 250-x", "P 250 SIZE", "N 250-x", "N 250 XCLIENT ADDR", "N 220 x", "N 250-x", "N 250 SIZE"},
	} {
		d := New(Options{XCLIENT: true})(script{keep: 1 << 12}.session())
		_, became, last := tell(t, d, lines...)
		if len(last.Exchanges) != 1 {
			t.Fatalf("%q: %q", want, became)
		}
		x := last.Exchanges[0]
		got := ""
		for _, f := range x.Candidate.Fields {
			if f.Path == "identity xclient" {
				got = f.Value
			}
		}
		found := shadow.Differences(x, Noise())
		if noise := len(found) == 1 && found[0].Excuse == "ignore identity *"; got != want || want != "" && !noise {
			t.Errorf("it says %q, want %q, and differs in %+v", got, want, found)
		}
	}
}
