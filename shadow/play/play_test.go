package play

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/tally"
	"github.com/splitd/splitd/traffic"
)

// stage is where a Play is tried: servers by address, and what they were sent.
type stage struct {
	t       *testing.T
	servers map[string]func(net.Conn) // by address
	mu      sync.Mutex
	dialled []string
	log     bytes.Buffer
}

const (
	candidateAt = "10.0.0.12:25"
	primaryAt   = "10.0.0.11:25"
)

func newStage(t *testing.T, candidate func(net.Conn)) *stage {
	return &stage{t: t, servers: map[string]func(net.Conn){candidateAt: candidate}}
}

func (s *stage) dial(_ context.Context, at netip.AddrPort) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialled = append(s.dialled, at.String())
	serve := s.servers[at.String()]
	if serve == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	go func() {
		serve(theirs)
		_ = theirs.Close()
	}()
	return ours, nil
}

func (s *stage) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.dialled...)
}

// Write implements io.Writer, for logs.
func (s *stage) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(line)
}

func (s *stage) logged(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.log.String(), text)
}

func (s *stage) times(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.log.String(), text)
}

// mx is a split whose shadow goes to "new".
func mx(change func(*traffic.Split)) traffic.Split {
	s := traffic.Split{
		Name: "mx", Protocol: "smtp", Mode: traffic.ModeProxy,
		Primary:    traffic.Backend{Name: "old", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.11")}}},
		Candidates: []traffic.Backend{{Name: "new", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.12")}}}},
		Shadow: traffic.Shadow{
			To: "new", Mode: "envelope", FlowBudget: 64 << 10, Patience: 5 * time.Second, MinEffect: 1000,
			Control: traffic.Control{Off: true},
		},
		Sample: traffic.Whole,
	}
	if change != nil {
		change(&s)
	}
	return s
}

// play begins one in a bubble of synctest.
func (s *stage) play(change func(*Options)) *Play {
	s.t.Helper()
	o := Options{
		Split: mx(nil), Budget: runner.NewBudget(1 << 20), Dial: s.dial,
		Draw: func() float64 { return 0.5 }, Log: slog.New(slog.NewTextHandler(s, nil)),
	}
	if change != nil {
		change(&o)
	}
	p, err := New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.Close)
	p.Begin()
	return p
}

var flow = runner.Flow{
	Client: netip.MustParseAddrPort("192.0.2.7:40000"), Service: netip.MustParseAddrPort("192.0.2.25:25"), Primary: netip.MustParseAddrPort(primaryAt),
}

// turn is what a client says, and what the primary answers: its greeting to
// nothing.
type turn struct{ says, answer string }

// tell has a flow of the primary be as the turns say. It says whether all of it
// was taken.
func tell(p *Play, turns ...turn) bool {
	tap := p.Open(flow)
	if tap == nil {
		return false
	}
	for _, turn := range turns {
		for _, said := range []struct {
			from  shadow.Party
			bytes string
		}{{shadow.Client, turn.says}, {shadow.Primary, turn.answer}} {
			if said.bytes != "" && !tap.Take(said.from, []byte(said.bytes), false, time.Now()) {
				return false
			}
			synctest.Wait() // clients wait for answers
		}
	}
	tap.End(shadow.Closed, time.Now())
	synctest.Wait()
	return true
}

// mail is a session with one mail for alice and bob.
func session() []turn {
	return []turn{
		{"", "220 old.example ESMTP\r\n"},
		{"EHLO client.example\r\n", "250-old.example\r\n250-SIZE 1000\r\n250 8BITMIME\r\n"},
		{"MAIL FROM:<eve@client.example>\r\n", "250 2.1.0 Ok\r\n"},
		{"RCPT TO:<alice@example.com>\r\n", "250 2.1.5 Ok\r\n"},
		{"RCPT TO:<bob@example.com>\r\n", "250 2.1.5 Ok\r\n"},
		{"DATA\r\n", "354 go on\r\n"},
		{"Subject: hi\r\n\r\nhello\r\n.\r\n", "250 2.0.0 queued\r\n"},
		{"QUIT\r\n", "221 2.0.0 Bye\r\n"},
	}
}

// mta is a mail server with some answers of its own; what it is sent goes to heard.
func mta(heard io.Writer, answers map[string]string) func(net.Conn) {
	return func(c net.Conn) {
		answer := func(to, otherwise string) {
			text, ok := answers[to]
			if !ok {
				text = otherwise
			}
			_, _ = io.WriteString(c, text+"\r\n")
		}
		go answer("", "220 new.example ESMTP") // a pipe has no room
		for lines := bufio.NewScanner(c); lines.Scan(); {
			line := lines.Text()
			_, _ = io.WriteString(heard, line+"\n")
			verb, _, _ := strings.Cut(line, " ")
			switch verb {
			case "PROXY":
			case "EHLO":
				answer(line, "250-new.example\r\n250-SIZE 1000\r\n250 8BITMIME")
			case "MAIL":
				answer(line, "250 2.1.0 Ok")
			case "RCPT":
				answer(line, "250 2.1.5 Ok")
			case "DATA":
				answer(line, "354 go on")
			case "QUIT":
				answer(line, "221 2.0.0 Bye")
				return
			default:
				answer(line, "250 2.0.0 Ok")
			}
		}
	}
}

// book is what a server was sent.
type bookOf struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *bookOf) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(line)
}

func (b *bookOf) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// listed are the differences of a report, short.
func listed(all []report.Difference) []string {
	lines := []string{}
	for _, d := range all {
		lines = append(lines, fmt.Sprintf("%d %s %s: %s -> %s", d.Count, d.Endpoint, d.Field, d.Expected, d.Got))
	}
	return lines
}

func TestAReportNamesWhatTheCandidateAnswersOtherwiseAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard bookOf
		s := newStage(t, mta(&heard, map[string]string{
			"EHLO client.example":         "250-new.example\r\n250-SIZE 500\r\n250 8BITMIME",
			"RCPT TO:<bob@example.com>":   "550 5.1.1 User unknown",
			"RCPT TO:<carol@example.com>": "550 5.1.1 User unknown",
		}))
		p := s.play(nil)
		for range 10 {
			if !tell(p, session()...) {
				t.Fatal("a flow was not taken")
			}
		}
		r := p.Report()
		if diff := cmp.Diff([]string{"10 RCPT code: 250 -> 550", "10 EHLO keyword SIZE: 1000 -> 500"}, listed(r.Differences)); diff != "" {
			t.Errorf("differences (-want +got):\n%s", diff)
		}
		if !r.Cover.AddsUp() || r.Cover.Compared == 0 || r.Verdict != report.Differs || r.Split != "mx" || r.Candidate != "new" || r.Primary != "old" || r.Protocol != "smtp" {
			t.Errorf("the report is %+v", r)
		}
		if !strings.Contains(r.Rule, "no DATA") || r.Rule != p.Rule() {
			t.Errorf("the rule is %q, of the play %q", r.Rule, p.Rule())
		}
		if text := heard.String(); strings.Contains(text, "DATA") || strings.Contains(text, "hello") || !strings.Contains(text, "RCPT TO:<bob") {
			t.Errorf("the candidate was sent %q", text)
		}
	})
}

// A candidate that refuses all recipients, since in mode kernel this host is its client,
// may be a right one or not: nobody is told that it answers as the primary.
func TestACandidateThatRefusesEveryoneForHisAddressIsNotTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, map[string]string{
			"RCPT TO:<alice@example.com>": "554 5.7.1 Client host rejected: Access denied",
			"RCPT TO:<bob@example.com>":   "554 5.7.1 Client host rejected: Access denied",
		}))
		p := s.play(func(o *Options) { o.Split = mx(func(s *traffic.Split) { s.Mode = traffic.ModeKernel }) })
		for range 200 {
			if !tell(p, session()...) {
				t.Fatal("a flow was not taken")
			}
		}
		r := p.Report()
		d := report.Limits{MaxMismatch: 0.001, MinCompared: 500}.Decide(r)
		if r.Verdict != report.Undecided || d.ExitCode != 6 || !strings.Contains(r.Summary, `"ignore identity *"`) || r.Exchanges.Doubtful == 0 {
			t.Errorf("%s, %+v: %q; %+v", r.Verdict, d, r.Summary, r.Exchanges)
		}
	})
}

// httpd answers each request with a body.
func httpd(body func(path string) string) func(net.Conn) {
	return func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			path := strings.Fields(lines.Text())[1]
			for lines.Scan() && lines.Text() != "" { //nolint:revive // the headers are of no account
			}
			_, _ = io.WriteString(c, answer(body(path)))
		}
	}
}

func answer(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func TestEachProtocolIsPlayedByItsDriver(t *testing.T) {
	for protocol, want := range map[string][]string{
		"http": {"5 GET /price body $.price: <integer> -> <integer>"},
		"raw":  {"5 flow bytes: <text> -> <text>"},
	} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, httpd(func(string) string { return `{"price":2345}` }))
				p := s.play(func(o *Options) {
					o.Split = mx(func(s *traffic.Split) { s.Protocol, s.Shadow.Mode = protocol, "" })
				})
				for range 5 {
					tell(p, turn{"GET /price HTTP/1.1\r\nHost: a\r\n\r\n", answer(`{"price":1234}`)})
				}
				r := p.Report()
				got := listed(r.Differences)
				if len(got) == 0 || protocol == "http" && !cmp.Equal(want, got) || r.Protocol != protocol || !strings.HasPrefix(r.Rule, protocol) {
					t.Errorf("%s: differences %q, rule %q, suspects %q, %+v", protocol, got, r.Rule, listed(r.Suspects), r.Cover)
				}
			})
		})
	}
}

func TestAUsersRuleExcusesAndOneThatIsAboutNothingIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, map[string]string{"EHLO client.example": "250-new.example\r\n250-SIZE 500\r\n250 8BITMIME"}))
		p := s.play(func(o *Options) {
			o.Split = mx(func(s *traffic.Split) {
				s.Shadow.Ignore = []string{"ignore EHLO | keyword SIZE", "ignore header x-nobody"}
			})
		})
		for range 5 {
			tell(p, session()...)
		}
		r := p.Report()
		if len(r.Differences)+len(r.Suspects) > 0 {
			t.Errorf("what is ignored is reported: %q", listed(r.Differences))
		}
		if diff := cmp.Diff([]string{"ignore header x-nobody"}, r.UnusedRules); diff != "" {
			t.Errorf("rules about nothing (-want +got):\n%s", diff)
		}
	})
}

// What differs by itself is learnt by asking the primary twice, and the candidate
// is not charged with it.
func TestWhatDiffersByItselfIsNoDifferenceOfTheCandidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		priced := func(price int) func(string) string {
			return func(string) string { return fmt.Sprintf(`{"luck":%d,"price":%d}`, 1000000+rand.IntN(1000000), price) }
		}
		luck := priced(1234)
		s := newStage(t, httpd(priced(2345)))
		s.servers[primaryAt] = httpd(luck)
		p := s.play(func(o *Options) {
			o.Split = mx(func(s *traffic.Split) {
				s.Protocol, s.Shadow.Mode, s.Shadow.Control = "http", "", traffic.Control{}
			})
		})
		for range 60 {
			tell(p, turn{"GET /price HTTP/1.1\r\nHost: a\r\n\r\n", answer(luck(""))})
			time.Sleep(time.Second / 5)
		}
		r := p.Report()
		if diff := cmp.Diff([]string{"60 GET /price body $.price: <integer> -> <integer>"}, listed(r.Differences)); diff != "" {
			t.Errorf("differences (-want +got):\n%s", diff)
		}
		if len(r.Masked) != 1 || r.Masked[0].Field != "body $.luck" || r.Controls != 60 {
			t.Errorf("masked is %+v, after %d controls", r.Masked, r.Controls)
		}
	})
}

// Who comes with a session is not asked for twice, and so begins no flow that learns.
func TestAPrimaryHearsOfAClientsSessionOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := func(string) string { return `{"price":1}` }
		s := newStage(t, httpd(body))
		var again atomic.Int64
		s.servers[primaryAt] = httpd(func(string) string { again.Add(1); return body("") })
		p := s.play(func(o *Options) {
			o.Split = mx(func(s *traffic.Split) {
				s.Protocol, s.Shadow.Mode, s.Shadow.Control = "http", "", traffic.Control{}
			})
		})
		for range 20 {
			tell(p, turn{"GET /account HTTP/1.1\r\nHost: a\r\nCookie: sid=1\r\n\r\n", answer(body(""))})
			time.Sleep(time.Second / 5)
		}
		if r := p.Report(); again.Load() != 0 || r.Controls != 0 || r.Cover.Compared != 20 {
			t.Errorf("the primary was asked %d times more, %d controls are counted: %+v", again.Load(), r.Controls, r.Cover)
		}
	})
}

// A client that asks a thousand times on one connection is one flow that learns: the
// primary is not asked a thousand times more for it.
func TestAPrimaryIsAskedASecondTimeOnlySoOftenASecondByOneFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := func(string) string { return `{"price":1}` }
		s := newStage(t, httpd(body))
		s.servers[primaryAt] = httpd(body)
		p := s.play(func(o *Options) {
			o.Split = mx(func(s *traffic.Split) {
				s.Protocol, s.Shadow.Mode, s.Shadow.Control, s.Shadow.FlowBudget = "http", "", traffic.Control{}, 1<<20
			})
		})
		turns := make([]turn, 0, 1000)
		for i := range cap(turns) {
			turns = append(turns, turn{fmt.Sprintf("GET /a%d HTTP/1.1\r\nHost: a\r\n\r\n", i%7), answer(body(""))})
		}
		tell(p, turns...)
		synctest.Wait()
		if r := p.Report(); r.Controls != exchangesEach || r.Cover.Compared != 1000 {
			t.Errorf("the primary was asked %d times more in one second, want %d: %+v", r.Controls, exchangesEach, r.Cover)
		}
	})
}

func TestTheControlIsWhoTheFlowHasUnlessTheConfigurationSaysOtherwise(t *testing.T) {
	for name, test := range map[string]struct {
		control traffic.Control
		want    []string
	}{
		"the primary":  {traffic.Control{}, []string{candidateAt, primaryAt}},
		"nobody":       {traffic.Control{Off: true}, []string{candidateAt}},
		"an address":   {traffic.Control{Address: traffic.Address{IP: netip.MustParseAddr("10.0.0.13")}}, []string{candidateAt, "10.0.0.13:25"}},
		"and its port": {traffic.Control{Address: traffic.Address{IP: netip.MustParseAddr("10.0.0.13"), Port: 2525}}, []string{candidateAt, "10.0.0.13:2525"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, mta(io.Discard, nil))
				p := s.play(func(o *Options) { o.Split = mx(func(s *traffic.Split) { s.Shadow.Control = test.control }) })
				tell(p, session()...)
				got := s.asked()
				less := func(a, b string) bool { return a < b }
				if diff := cmp.Diff(sorted(test.want, less), sorted(got, less)); diff != "" {
					t.Errorf("dialled (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func sorted(all []string, less func(a, b string) bool) []string {
	all = append([]string(nil), all...)
	for i := range all {
		for j := i; j > 0 && less(all[j], all[j-1]); j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
	return all
}

func TestFlowsThatAreNotPlayedAreInTheCoverageWithTheirReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		p := s.play(func(o *Options) { o.Split = mx(func(s *traffic.Split) { s.Shadow.MaxFlows = 2 }) })
		for range 5 {
			p.Open(flow)
		}
		r := p.Report()
		if !r.Cover.AddsUp() || r.Cover.Dropped != 3 || len(r.NotCompared) != 1 || !strings.Contains(r.NotCompared[0].Reason, "max_flows") {
			t.Errorf("coverage %+v, because of %+v", r.Cover, r.NotCompared)
		}
		if c := p.Counts(); c.Open != 2 || c.Declined.Full != 3 {
			t.Errorf("counts are %+v", c)
		}
	})
}

func TestACandidateThatIsDeadIsADifferenceAndLeftAloneForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, nil)
		delete(s.servers, candidateAt)
		p := s.play(nil)
		const flows = 20
		for range flows {
			tell(p, session()...)
		}
		c, r := p.Counts(), p.Report()
		if !strings.Contains(c.Breaker, "refused") || c.Declined.Broken == 0 || c.Open != 0 {
			t.Errorf("counts are %+v", c)
		}
		if !r.Cover.AddsUp() || r.Cover.Eligible < flows || r.Cover.Dropped != int64(c.Declined.Broken) || r.Cover.CandidateError == 0 {
			t.Errorf("coverage %+v", r.Cover)
		}
		if len(r.Differences) == 0 || r.Differences[0].Kind != shadow.Unavailable || r.Verdict != report.Differs {
			t.Errorf("a dead candidate is reported as %q", listed(r.Differences))
		}
	})
}

func TestHaltEndsShadowsAtOnceAndLeavesTheReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		p := s.play(nil)
		tap, begin := p.Open(flow), time.Now()
		tap.Take(shadow.Primary, []byte("220 old\r\n"), false, time.Now())
		synctest.Wait()
		p.Halt()
		synctest.Wait()
		if tap.Take(shadow.Client, []byte("EHLO a\r\n"), false, time.Now()) || p.Open(flow) != nil {
			t.Error("a chunk or a flow is taken after the end")
		}
		if c := p.Counts(); c.Open != 0 || c.Running || time.Since(begin) != 0 {
			t.Errorf("after %v: %+v", time.Since(begin), c)
		}
		r := p.Report()
		if r.Cover.Dropped == 0 || !r.Cover.AddsUp() {
			t.Errorf("coverage %+v", r.Cover)
		}
		s.servers[candidateAt] = mta(io.Discard, nil)
		p.Begin()
		if !tell(p, session()...) || p.Report().Cover.Compared == 0 {
			t.Error("it does not begin again")
		}
	})
}

func TestOtherRulesGoOnWithWhatWasCountedAndAnotherCandidateBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, map[string]string{"RCPT TO:<bob@example.com>": "550 5.1.1 User unknown"}))
		p := s.play(nil)
		for range 5 {
			tell(p, session()...)
		}
		before := p.Report().Cover.Compared
		p.Halt()
		next := s.play(func(o *Options) {
			o.After, o.Split = p, mx(func(s *traffic.Split) { s.Shadow.Ignore = []string{"ignore EHLO | keyword *"} })
		})
		if got := next.Report(); got.Cover.Compared != before || len(got.UnusedRules) != 1 || before == 0 {
			t.Errorf("it goes on at %d of %d, unused rules %q", got.Cover.Compared, before, got.UnusedRules)
		}
		other := s.play(func(o *Options) {
			o.After, o.Split = next, mx(func(s *traffic.Split) { s.Candidates[0].Name, s.Shadow.To = "newer", "newer" })
		})
		if got := other.Report().Cover; got != (tally.Coverage{}) || !s.logged("report begins anew") {
			t.Errorf("another candidate begins at %+v, the log is %s", got, s.log.String())
		}
	})
}

func TestWhatWasCountedOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, map[string]string{"RCPT TO:<bob@example.com>": "550 5.1.1 User unknown"}))
		p := s.play(func(o *Options) { o.Split = mx(func(s *traffic.Split) { s.Shadow.FullSamples = true }) })
		for range 5 {
			tell(p, session()...)
		}
		text, edition, err := p.Bytes()
		if err != nil || edition != p.Edition() {
			t.Fatal(edition, p.Edition(), err)
		}
		again := func(kept []byte, full bool) report.Report {
			return s.play(func(o *Options) {
				o.Kept, o.Split = kept, mx(func(s *traffic.Split) { s.Shadow.FullSamples = full })
			}).Report()
		}
		if diff := cmp.Diff(p.Report(), again(text, true)); diff != "" {
			t.Errorf("the report (-before +after):\n%s", diff)
		}
		masked := again(text, false)
		if len(masked.Samples) != 0 || len(p.Report().Samples) == 0 || masked.Cover != p.Report().Cover {
			t.Errorf("full samples stay where there may be none: %d of %d", len(masked.Samples), len(p.Report().Samples))
		}
		if s.logged("begins anew") {
			t.Errorf("the log: %s", s.log.String())
		}
		for name, broken := range map[string]string{
			"torn": string(text[:len(text)/2]), "newer": strings.Replace(string(text), `"version":1`, `"version":99`, 1), "nonsense": "x",
			"of another candidate": strings.Replace(string(text), `"candidate":"new"`, `"candidate":"other"`, 1),
		} {
			s.mu.Lock()
			s.log.Reset()
			s.mu.Unlock()
			if got := again([]byte(broken), true); got.Cover != (tally.Coverage{}) || !s.logged("report begins anew") {
				t.Errorf("%s: it goes on with %+v, the log: %s", name, got.Cover, s.log.String())
			}
		}
		p.Reset()
		if got := p.Report(); got.Cover != (tally.Coverage{}) || len(got.Samples) > 0 || p.Edition() == edition {
			t.Errorf("after a reset: %+v", got)
		}
	})
}

func TestACandidateIsToldWhoseAFlowIsBeforeAllElse(t *testing.T) {
	for name, test := range map[string]struct {
		change    func(*traffic.Split)
		candidate string
		primary   string
	}{
		"nothing":     {func(*traffic.Split) {}, "EHLO", "EHLO"},
		"identity v1": {func(s *traffic.Split) { s.Shadow.Identity = traffic.IdentityProxyV1 }, "PROXY TCP4 192.0.2.7 192.0.2.25 40000 25", "EHLO"},
		"send_proxy":  {func(s *traffic.Split) { s.Proxy.SendProxy = traffic.SendProxyV1 }, "PROXY TCP4", "PROXY TCP4"},
		"kernel":      {func(s *traffic.Split) { s.Proxy.SendProxy, s.Mode = traffic.SendProxyV1, traffic.ModeKernel }, "EHLO", "EHLO"},
		"of both its own": {func(s *traffic.Split) {
			s.Proxy.SendProxy, s.Shadow.Identity = traffic.SendProxyV2, traffic.IdentityProxyV1
		}, "PROXY TCP4", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var heard, again bookOf
				s := newStage(t, mta(&heard, nil))
				s.servers[primaryAt] = mta(&again, nil)
				p := s.play(func(o *Options) {
					o.Split = mx(func(s *traffic.Split) {
						s.Shadow.Control = traffic.Control{}
						test.change(s)
					})
				})
				tell(p, session()...)
				if !strings.HasPrefix(heard.String(), test.candidate) || !strings.HasPrefix(again.String(), test.primary) {
					t.Errorf("the candidate was sent %q, the primary a second time %q", heard.String(), again.String())
				}
				if named := strings.Contains(p.Rule(), "PROXY header"); named != strings.HasPrefix(test.candidate, "PROXY") {
					t.Errorf("the rule is %q", p.Rule())
				}
			})
		})
	}
}

func TestACandidatesAddressesOfTheClientsFamilyAreTakenInTurn(t *testing.T) {
	address := func(text string, port uint16) traffic.Address {
		return traffic.Address{IP: netip.MustParseAddr(text), Port: port}
	}
	for name, test := range map[string]struct {
		backend traffic.Backend
		mode    traffic.Mode
		service string
		want    string
	}{
		"in turn":          {traffic.Backend{Addresses: []traffic.Address{address("10.0.0.1", 0), address("10.0.0.2", 2525), address("2001:db8::1", 0)}}, traffic.ModeProxy, "192.0.2.25:25", "10.0.0.1:25 10.0.0.2:2525"},
		"IPv6":             {traffic.Backend{Addresses: []traffic.Address{address("10.0.0.1", 0), address("2001:db8::1", 0)}}, traffic.ModeKernel, "[2001:db8::25]:26", "[2001:db8::1]:26"},
		"local":            {traffic.Backend{Local: true}, traffic.ModeProxy, "192.0.2.25:25", "127.0.0.1:25"},
		"local, IPv6":      {traffic.Backend{Local: true}, traffic.ModeProxy, "[2001:db8::25]:25", "[::1]:25"},
		"local, kernel":    {traffic.Backend{Local: true}, traffic.ModeKernel, "192.0.2.25:25", "192.0.2.25:25"},
		"none":             {traffic.Backend{Addresses: []traffic.Address{address("10.0.0.1", 0)}}, traffic.ModeProxy, "[2001:db8::25]:25", ""},
		"IPv4-mapped":      {traffic.Backend{Addresses: []traffic.Address{address("10.0.0.1", 0)}}, traffic.ModeProxy, "[::ffff:192.0.2.25]:25", "10.0.0.1:25"},
		"one that is dead": {traffic.Backend{Addresses: []traffic.Address{address("10.0.0.1", 0), address("10.0.0.2", 0)}, Down: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, traffic.ModeKernel, "192.0.2.25:25", "10.0.0.2:25"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, at := range addresses(traffic.Split{Mode: test.mode}, test.backend, netip.MustParseAddrPort(test.service)) {
				got = append(got, at.String())
			}
			if diff := cmp.Diff(test.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
	var dialled []string
	o := Options{Split: mx(nil), Dial: func(_ context.Context, at netip.AddrPort) (net.Conn, error) {
		dialled = append(dialled, at.String())
		return nil, io.EOF
	}}
	dial := o.toCandidate(traffic.Backend{Addresses: []traffic.Address{address("10.0.0.1", 0), address("10.0.0.2", 0)}})
	for range 3 {
		_, _ = dial(t.Context(), flow)
	}
	if diff := cmp.Diff([]string{"10.0.0.1:25", "10.0.0.2:25", "10.0.0.1:25"}, dialled); diff != "" {
		t.Errorf("dialled (-want +got):\n%s", diff)
	}
}

// A relay's thread opens flows: whoever reads reports, or adds to the tally, must
// not be in its way.
func TestOpenWaitsForNoLock(t *testing.T) {
	p, err := New(Options{Split: mx(nil), Budget: runner.NewBudget(1 << 20), Dial: newStage(t, mta(io.Discard, nil)).dial})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Begin()
	p.mu.Lock()
	p.book.mu.Lock()
	tap := p.Open(flow)
	taken := tap != nil && tap.Take(shadow.Primary, []byte("220 old\r\n"), false, time.Now())
	p.book.mu.Unlock()
	p.mu.Unlock()
	if !taken {
		t.Error("a flow was not taken")
	}
	tap.End(shadow.Closed, time.Now())
}

func TestAPanicWhileComparingCostsThatExchangeItsComparison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, nil)) // nobody has asked for the greeting, so it has no time
		p := s.play(func(o *Options) { o.Observe = func(Timed) { panic("no room") } })
		if !tell(p, session()...) {
			t.Fatal("the flow was not taken")
		}
		if r := p.Report(); r.Cover.Opaque != 5 || r.Cover.Compared != 1 || !r.Cover.AddsUp() || !s.logged("no room") {
			t.Errorf("coverage %+v, the log: %s", r.Cover, s.log.String())
		}
		if c := p.Counts(); c.Open != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

func TestWhoTimesExchangesIsToldOfBothServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var all []Timed
		s := newStage(t, mta(io.Discard, nil))
		p := s.play(func(o *Options) {
			o.Observe = func(t Timed) {
				mu.Lock()
				defer mu.Unlock()
				all = append(all, t)
			}
		})
		tell(p, session()...)
		mu.Lock()
		defer mu.Unlock()
		if int64(len(all)) > p.Report().Cover.Compared || len(all) == 0 {
			t.Errorf("told of %d exchanges, %d were compared", len(all), p.Report().Cover.Compared)
		}
	})
}

func TestAPlayThatCannotBeSaysWhatToConfigure(t *testing.T) {
	for want, change := range map[string]func(*traffic.Split){
		"nobody says which candidate is to be compared": func(s *traffic.Split) { s.Shadow.To = "" },
		`it has no candidate "newest"`:                  func(s *traffic.Split) { s.Shadow.To = "newest" },
		`nothing plays protocol "redis"`:                func(s *traffic.Split) { s.Protocol = "redis" },
		"proves nothing":                                func(s *traffic.Split) { s.Shadow.Mode = "sink" },
		"is no predicate":                               func(s *traffic.Split) { s.Shadow.Ignore = []string{"header x"} },
		"is no method":                                  func(s *traffic.Split) { s.Protocol, s.Shadow.Allow = "http", []string{"post /a"} },
	} {
		if _, err := New(Options{Split: mx(change)}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `"mx"`) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestAPlayFollowsASplitWhoseWeightsChangeAndNotOneThatIsRedefined(t *testing.T) {
	p, err := New(Options{Split: mx(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if !p.Follows(mx(func(s *traffic.Split) { s.Generation, s.Sample, s.Candidates[0].Weight = 7, 5, 9 })) {
		t.Error("a weight makes another play")
	}
	for name, change := range map[string]func(*traffic.Split){
		"rules":    func(s *traffic.Split) { s.Shadow.Ignore = []string{"ignore a"} },
		"protocol": func(s *traffic.Split) { s.Protocol = "raw" },
		"address":  func(s *traffic.Split) { s.Candidates[0].Addresses = s.Primary.Addresses },
		"primary":  func(s *traffic.Split) { s.Primary.Name = "older" },
		"header":   func(s *traffic.Split) { s.Proxy.SendProxy = traffic.SendProxyV2 },
		"trust":    func(s *traffic.Split) { s.Shadow.TLS.ToCandidate.Report = true },
	} {
		if p.Follows(mx(change)) {
			t.Errorf("another %s makes none", name)
		}
	}
}

func TestAReportWhoseSumsAreWrongIsCountedEachTimeAndSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, nil))
		p := s.play(nil)
		right := report.Report{Cover: tally.Coverage{Eligible: 2, Compared: 1, Opaque: 1}, Exchanges: report.Exchanges{Noise: 1}}
		coverage, found := right, right
		coverage.Cover.Eligible++
		found.Exchanges.Match++
		if p.judge(right); p.Counts().Unsound != 0 || s.logged("rely") {
			t.Errorf("sums that are right: %+v", p.Counts())
		}
		p.judge(coverage)
		if p.judge(coverage); p.Counts().Unsound != 2 || p.Numbers().Unsound != 2 {
			t.Errorf("coverage is wrong twice: %+v", p.Counts())
		}
		if p.judge(found); p.Counts().Unsound != 3 {
			t.Errorf("match, mismatch and noise are wrong: %+v", p.Counts())
		}
		if times := s.times("do not add up"); times != 1 {
			t.Errorf("it is said %d times", times)
		}
	})
}

// connection is what one takes of a budget, and a little more.
const connection = 40 << 10

// Whatever candidates, clients and budgets do, what was seen is accounted for.
func TestCoverageAddsUpWhateverHappens(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			draw := rand.New(rand.NewPCG(seed, 7))
			kinds := []func(net.Conn){
				mta(io.Discard, nil),
				mta(io.Discard, map[string]string{"RCPT TO:<alice@example.com>": "450 4.7.1 come back"}),
				mta(io.Discard, map[string]string{"EHLO client.example": "not a reply"}),
				func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
				func(net.Conn) {},
				func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte("220-x\r\n"), 64<<10)) },
			}
			s := newStage(t, nil)
			order := draw.Perm(len(kinds))
			var next atomic.Int64
			s.servers[candidateAt] = func(c net.Conn) { kinds[order[int(next.Add(1))%len(kinds)]](c) }
			p := s.play(func(o *Options) {
				o.Budget = runner.NewBudget(int64(draw.IntN(8)*connection + 4<<10<<draw.IntN(6)))
				o.Split = mx(func(s *traffic.Split) { s.Shadow.MaxFlows = draw.IntN(3) })
			})
			played, all := int64(0), session()
			for range 30 {
				played++
				tap := p.Open(flow)
				if tap == nil {
					continue
				}
				takes := true
				for _, turn := range all[:1+draw.IntN(len(all))] {
					takes = takes && tap.Take(shadow.Client, []byte(turn.says), false, time.Now()) && tap.Take(shadow.Primary, []byte(turn.answer), false, time.Now())
				}
				switch {
				case takes && draw.IntN(4) > 0: // others go on

					tap.End([]shadow.End{shadow.Closed, shadow.Reset}[draw.IntN(2)], time.Now())
				}
				time.Sleep(time.Duration(draw.IntN(2000)) * time.Millisecond)
				if r := p.Report(); !r.Cover.AddsUp() {
					t.Fatalf("seed %d: %+v", seed, r.Cover)
				}
			}
			p.Close()
			r := p.Report()
			if r.Cover.Eligible < played || !r.Cover.AddsUp() || p.Counts().Open != 0 || p.options.Budget.Used() != 0 {
				t.Errorf("seed %d: %d flows, %+v, %+v, %d bytes", seed, played, r.Cover, p.Counts(), p.options.Budget.Used())
			}
			var why int64
			for _, n := range r.NotCompared {
				why += n.Count
			}
			if why != r.Cover.Eligible-r.Cover.Compared {
				t.Errorf("seed %d: reasons are told for %d of %+v", seed, why, r.Cover)
			}
		})
	}
}
