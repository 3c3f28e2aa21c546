package http1

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

const (
	get   = "GET / HTTP/1.1\nHost: example.org\n\n"
	post  = "POST /orders HTTP/1.1\nHost: example.org\nContent-Length: 5\n\nhello"
	hello = "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"

	get10   = "GET / HTTP/1.0\n\n"
	kept10  = "GET / HTTP/1.0\nConnection: keep-alive\n\n"
	hello10 = "HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 5\n\nhello"
)

func TestASessionGoesOnWhateverTheRepliesAre(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		options  Options
		scenes   []scene
		want     []shadow.Verdict
		sent     string // over all connections
		redials  int
		pipeline bool
	}{
		{
			name: "kept alive", scenes: []scene{both(get, hello), both(get, hello)},
			want: []shadow.Verdict{shadow.Match, shadow.Match}, sent: get + get,
		},
		{
			name: "pipelined: one after the other to the candidate", pipeline: true,
			scenes: []scene{both(get, hello), both(get, hello), both(get, hello)},
			want:   []shadow.Verdict{shadow.Match, shadow.Match, shadow.Match}, sent: get + get + get,
		},
		{
			name: "a client of HTTP/1.0 that does not ask to be kept alive is answered once", scenes: []scene{{
				request: crlf(get10), primary: crlf(hello), candidate: crlf(hello), primaryEnds: shadow.Closed, candidateEnds: shadow.Closed,
			}}, want: []shadow.Verdict{shadow.Match}, sent: get10,
		},
		{
			name: "behind a request of HTTP/1.0 a candidate's connection is of no more use, though it stays open", pipeline: true,
			scenes: []scene{both(get10, hello), both(get10, hello)},
			want:   []shadow.Verdict{shadow.Match, shadow.Match}, sent: get10 + get10, redials: 1,
		},
		{
			name:   "a client of HTTP/1.0 that asks to be kept alive is",
			scenes: []scene{both(kept10, hello10), both(kept10, hello10)},
			want:   []shadow.Verdict{shadow.Match, shadow.Match}, sent: kept10 + kept10,
		},
		{
			name: "a reply of HTTP/1.0 ends the connection that the client of 1.0 asked to keep", scenes: []scene{
				{request: crlf(kept10), primary: crlf(hello10), candidate: crlf("HTTP/1.0 200 OK\nContent-Length: 5\n\nhello"), candidateEnds: shadow.Closed},
				both(kept10, hello10),
			}, want: []shadow.Verdict{shadow.Mismatch, shadow.Match}, sent: kept10 + kept10, redials: 1,
		},
		{
			name: "what is not allowed is skipped, and the next is sent", scenes: []scene{both(get, hello), both(post, hello), both(get, hello)},
			want: []shadow.Verdict{shadow.Match, shadow.Skipped, shadow.Match}, sent: get + get,
		},
		{
			name: "what is allowed for its path is sent", options: Options{Allow: []Allow{{"POST", "/orders"}}},
			scenes: []scene{both(get, hello), both(post, hello), both(strings.Replace(post, "/orders", "/orders/../x", 1), hello)},
			want:   []shadow.Verdict{shadow.Match, shadow.Match, shadow.Skipped}, sent: get + post,
		},
		{
			name:   "a header that makes a GET another method makes it one",
			scenes: []scene{both("GET / HTTP/1.1\nX-HTTP-Method-Override: delete\n\n", hello)},
			want:   []shadow.Verdict{shadow.Skipped},
		},
		{
			name: "a header that makes a write another method does not make it safe", scenes: []scene{
				both("POST /pay HTTP/1.1\nX-HTTP-Method-Override: GET\nContent-Length: 1\n\nx", hello),
				both("DELETE /pay HTTP/1.1\nX-Method-Override: GET\n\n", hello), both(get, hello),
			}, want: []shadow.Verdict{shadow.Skipped, shadow.Skipped, shadow.Match}, sent: get,
		},
		{
			name: "chunks are cut as each server likes", scenes: []scene{{
				request: crlf(get), primary: crlf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n0\nX-Sum: 1\n\n"),
				candidate: crlf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2;x=y\nhe\n03\nllo\n000\nX-Sum: 1\n\n"),
			}}, want: []shadow.Verdict{shadow.Match}, sent: get,
		},
		{
			name: "a trailer is compared", scenes: []scene{{
				request: crlf(get), primary: crlf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n0\nX-Sum: 1\n\n"),
				candidate: crlf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n0\nX-Sum: 2\n\n"),
			}}, want: []shadow.Verdict{shadow.Mismatch}, sent: get,
		},
		{
			name: "no body behind HEAD, 204, 304 and 103", scenes: []scene{
				both("HEAD / HTTP/1.1\n\n", "HTTP/1.1 200 OK\nContent-Length: 100\n\n"),
				both(get, "HTTP/1.1 204 No Content\nTransfer-Encoding: chunked\n\n"),
				both(get, "HTTP/1.1 304 Not Modified\nContent-Length: 100\n\n"),
				both(get, "HTTP/1.1 103 Early Hints\nLink: </x>\n\n"+hello),
			}, want: []shadow.Verdict{shadow.Match, shadow.Match, shadow.Match, shadow.Match},
			sent: "HEAD / HTTP/1.1\n\n" + get + get + get,
		},
		{
			name: "a body that ends with the connection", scenes: []scene{{
				request: crlf(get), primary: []byte("HTTP/1.0 200 OK\r\n\r\nhello"), candidate: []byte("HTTP/1.0 200 OK\r\n\r\nhello"),
				primaryEnds: shadow.Closed, candidateEnds: shadow.Closed,
			}}, want: []shadow.Verdict{shadow.Match}, sent: get,
		},
		{
			name: "a body that ends with a reset is no whole one", scenes: []scene{{
				request: crlf(get), primary: []byte("HTTP/1.0 200 OK\r\n\r\nhello"), candidate: []byte("HTTP/1.0 200 OK\r\n\r\nhello"),
				primaryEnds: shadow.Reset, candidateEnds: shadow.Closed,
			}}, want: []shadow.Verdict{shadow.PrimaryError}, sent: get,
		},
		{
			name: "a candidate that closes early differs in that, and is dialled anew", scenes: []scene{
				{request: crlf(get), primary: crlf(hello), candidate: crlf("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 5\n\nhello"), candidateEnds: shadow.Closed},
				both(get, hello),
			}, want: []shadow.Verdict{shadow.Mismatch, shadow.Match}, sent: get + get, redials: 1,
		},
		{
			name: "a candidate that was idle for too long is dialled anew", scenes: []scene{
				{request: crlf(get), primary: crlf(hello), candidate: crlf(hello), candidateEnds: shadow.Closed},
				both(get, hello),
			}, want: []shadow.Verdict{shadow.Match, shadow.Match}, sent: get + get, redials: 1,
		},
		{
			name: "a candidate that fails is a difference, and has another chance", scenes: []scene{
				{request: crlf(get), primary: crlf(hello), candidateEnds: shadow.Refused},
				{request: crlf(get), primary: crlf(hello), candidate: crlf("HTTP/1.1 200 OK\nContent-Length: 5\n\nhe"), candidateEnds: shadow.Closed},
				{request: crlf(get), primary: crlf(hello), candidate: []byte("220 mail.example.org ESMTP\r\n")},
			}, want: []shadow.Verdict{shadow.CandidateError, shadow.CandidateError, shadow.CandidateError}, sent: get + get + get, redials: 2,
		},
		{
			name: "a candidate that fails three times in a row is asked no more", scenes: []scene{
				{request: crlf(get), primary: crlf(hello), candidateEnds: shadow.TimedOut},
				{request: crlf(get), primary: crlf(hello), candidateEnds: shadow.TimedOut},
				{request: crlf(get), primary: crlf(hello), candidateEnds: shadow.TimedOut},
				both(get, hello),
			}, want: []shadow.Verdict{shadow.CandidateError, shadow.CandidateError, shadow.CandidateError, shadow.CandidateError}, sent: get + get + get, redials: 2,
		},
		{
			name: "behind a write that was answered otherwise the two part", options: Options{Allow: []Allow{{"POST", "/**"}}}, scenes: []scene{
				{request: crlf(post), primary: crlf("HTTP/1.1 201 Created\nContent-Length: 0\n\n"), candidate: crlf("HTTP/1.1 409 Conflict\nContent-Length: 0\n\n")},
				both(get, hello), both(post, hello),
			}, want: []shadow.Verdict{shadow.Mismatch, shadow.AfterDivergence, shadow.AfterDivergence}, sent: post,
		},
		{
			name: "a validator is the primary's", scenes: []scene{
				{request: crlf("GET / HTTP/1.1\nIf-None-Match: \"a\"\n\n"), primary: crlf("HTTP/1.1 304 Not Modified\nETag: \"a\"\n\n"), candidate: crlf("HTTP/1.1 200 OK\nETag: \"b\"\nContent-Length: 5\n\nhello")},
				{request: crlf("GET / HTTP/1.1\nIf-None-Match: \"a\"\n\n"), primary: crlf("HTTP/1.1 304 Not Modified\nETag: \"a\"\n\n"), candidate: crlf("HTTP/1.1 404 Not Found\nContent-Length: 0\n\n")},
				{request: crlf(get), primary: crlf("HTTP/1.1 304 Not Modified\nETag: \"a\"\n\n"), candidate: crlf(hello)},
			}, want: []shadow.Verdict{shadow.Noise, shadow.Mismatch, shadow.Mismatch},
			sent: "GET / HTTP/1.1\nIf-None-Match: \"a\"\n\n" + "GET / HTTP/1.1\nIf-None-Match: \"a\"\n\n" + get,
		},
		{
			name: "a guard from loops is added, and heeded", options: Options{LoopGuard: "X-Shadow"}, scenes: []scene{
				both("GET / HTTP/1.1\nX-Shadow: 1\n\n", hello), both(get, hello),
			}, want: []shadow.Verdict{shadow.Skipped, shadow.Dropped}, sent: "GET / HTTP/1.1\nX-Shadow: 1\nHost: example.org\n\n",
		},
		{
			name: "a primary that closes leaves requests unanswered", pipeline: true, scenes: []scene{
				{request: crlf(get), primary: crlf("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 5\n\nhello"), candidate: crlf("HTTP/1.1 200 OK\nConnection: close\nContent-Length: 5\n\nhello"), primaryEnds: shadow.Closed},
				{request: crlf(get)},
			}, want: []shadow.Verdict{shadow.Match, shadow.PrimaryError}, sent: get,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newTheatre(test.options, 1<<10, test.scenes...)
			s.pipelined = test.pipeline
			told := s.play()
			if diff := cmp.Diff(test.want, verdictsOf(told)); diff != "" {
				t.Errorf("verdicts (-want +got):\n%s\n%v", diff, told)
			}
			if diff := cmp.Diff(string(crlf(test.sent)), string(bytes.Join(s.sent, nil))); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
			if s.redials != test.redials {
				t.Errorf("dialled anew %d times, want %d", s.redials, test.redials)
			}
		})
	}
}

func TestWhatIsNotUnderstoodIsOpaqueWithReasonAndPlace(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, client, primary, want string }{
		{"TLS", "\x16\x03\x01\x02\x00\x01", "", "client: TLS at byte 0"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", "client: HTTP/2 preface at byte 0"},
		{"HTTP/0.9", "GET /\r\n", "", "client: no request line of HTTP/1 at byte 0"},
		{"HTTP/1.2", "GET / HTTP/1.2\r\n", "", "client: no version 1.0 or 1.1 of HTTP at byte 6"},
		{"both lengths", "GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "", "client: both Content-Length and Transfer-Encoding at byte 65"},
		{"two lengths", "GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "", "client: two different Content-Lengths at byte 56"},
		{"signed length", "GET / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", "", "client: Content-Length that is no number at byte 38"},
		{"list of lengths", "GET / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", "", "client: Content-Length that is no number at byte 40"},
		{"coding of another name", "GET / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", "", "client: Transfer-Encoding other than chunked at byte 47"},
		{"chunked twice", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "", "client: Transfer-Encoding other than chunked at byte 55"},
		{"chunked in 1.0", "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "", "client: Transfer-Encoding in HTTP/1.0 at byte 46"},
		{"white space before the colon", "GET / HTTP/1.1\r\nContent-Length : 5\r\n", "", "client: no name and colon of a header at byte 16"},
		{"folded line", "GET / HTTP/1.1\r\nA: b\r\n c\r\n", "", "client: folded header line at byte 22"},
		{"lone LF", "GET / HTTP/1.1\nHost: a\n\n", "", "client: lone LF at byte 14"},
		{"lone CR", "GET / HTTP/1.1\r\nA: b\rTransfer-Encoding: chunked\r\n", "", "client: lone CR at byte 21"},
		{"NUL", "GET / HTTP/1.1\r\nA: b\x00\r\n", "", "client: control character at byte 20"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "", "client: more than one Host at byte 36"},
		{"chunk without a size", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n", "", "client: chunk's size that is no number at byte 46"},
		{"chunk longer than its size", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", "", "client: chunk that is longer than its size at byte 52"},
		{"LF behind a chunk's size", "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n", "", "client: lone LF at byte 47"},
		{"both lengths in a reply", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "primary: both Content-Length and Transfer-Encoding at byte 66"},
		{"no status line", "GET / HTTP/1.1\r\n\r\n", "200 OK\r\n", "primary: no status line of HTTP/1 at byte 0"},
		{"answer to nothing", "", "HTTP/1.1 408 Request Timeout\r\n\r\n", "primary: answer that nobody asked for at byte 0"},
		{"101 to nobody", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "primary: 101 that nobody asked for at byte 36"},
		{"tunnel", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "client: tunnel by CONNECT at byte 39"},
		{"HTTP/2 by upgrade", "GET / HTTP/1.1\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "client: HTTP/2 by upgrade at byte 69"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 7, 1 << 10} {
				s := newTheatre(Options{}, 1<<10)
				s.cut = pieces(size)
				s.say(shadow.Client, []byte(test.client), shadow.Open)
				s.say(shadow.Primary, []byte(test.primary), shadow.Open)
				if test.client != "" && strings.HasPrefix(test.name, "HTTP/2 by") {
					s.say(shadow.Candidate, []byte(test.primary), shadow.Open)
				}
				last := shadow.Exchange{}
				if len(s.told) > 0 {
					last = s.told[len(s.told)-1]
				}
				if last.Verdict != shadow.Opaque || last.Reason != test.want || !s.done {
					t.Errorf("in pieces of %d: %s, %q, done %v; want opaque, %q", size, last.Verdict, last.Reason, s.done, test.want)
				}
				if more := s.driver.Stop(shadow.Dropped, ""); len(more) > 0 {
					t.Errorf("Stop returns %v once more", more)
				}
			}
		})
	}
}

func pieces(size int) func([]byte) [][]byte {
	return func(b []byte) [][]byte {
		var all [][]byte
		for len(b) > 0 {
			n := min(size, len(b))
			all = append(all, b[:n])
			b = b[n:]
		}
		return all
	}
}

func TestWhatCameBeforeAFaultIsStillCompared(t *testing.T) {
	t.Parallel()
	s := newTheatre(Options{}, 1<<10)
	s.say(shadow.Client, append(crlf(get), "BAD\n"...), shadow.Open)
	s.say(shadow.Primary, crlf(hello), shadow.Open)
	if s.done || len(s.told) > 0 {
		t.Fatalf("done %v with %v before the candidate has answered", s.done, s.told)
	}
	s.say(shadow.Candidate, crlf(hello), shadow.Open)
	if diff := cmp.Diff([]shadow.Verdict{shadow.Match, shadow.Opaque}, verdictsOf(s.told)); diff != "" || !s.done {
		t.Errorf("done %v, verdicts (-want +got):\n%s", s.done, diff)
	}
}

// A primary that is asked again names itself by the names of a primary.
func TestAPrimaryThatNamesItselfDoesNotDifferFromItself(t *testing.T) {
	t.Parallel()
	const reply = "HTTP/1.1 200 OK\nContent-Location: http://old.example.org/home\nContent-Length: 0\n\n"
	d := New(Options{PrimaryHosts: []string{"old.example.org"}, CandidateHosts: []string{"new.example.org"}})(shadow.Session{Keep: 1 << 10, Control: true})
	var all []shadow.Exchange
	for _, e := range []shadow.Event{
		{From: shadow.Client, Bytes: crlf(get)},
		{From: shadow.Primary, Bytes: crlf(reply)},
		{From: shadow.Candidate, Bytes: crlf(reply)},
	} {
		all = append(all, d.Hear(e).Exchanges...)
	}
	if len(all) != 1 || all[0].Verdict != "" {
		t.Fatalf("exchanges = %+v, want one to compare", all)
	}
	if found := shadow.Differences(all[0], Noise()); len(found) > 0 {
		t.Errorf("a primary differs from itself in %+v", found)
	}
}

func TestALongBodyCostsWhatIsKept(t *testing.T) {
	t.Parallel()
	const keep, size = 4 << 10, 1 << 30
	s := newTheatre(Options{}, keep)
	s.say(shadow.Client, crlf(get), shadow.Open)
	block := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	for _, from := range []shadow.Party{shadow.Primary, shadow.Candidate} {
		s.say(from, crlf(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Length: %d\n\n", size)), shadow.Open)
		for said := 0; said < size; said += len(block) {
			s.told = append(s.told, s.driver.Hear(shadow.Event{From: from, Bytes: block}).Exchanges...)
			s.held = max(s.held, s.driver.Held())
		}
	}
	if diff := cmp.Diff([]shadow.Verdict{shadow.Match}, verdictsOf(s.told)); diff != "" {
		t.Error(diff)
	}
	if most := 4*keep + 4*overhead; s.held > most {
		t.Errorf("held %d bytes, want at most %d", s.held, most)
	}
}

func TestLongBodiesAreTruncatedUnlessTheyAreSeenToDiffer(t *testing.T) {
	t.Parallel()
	reply := func(kind, body string) []byte {
		return append(crlf(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Type: %s\nContent-Length: %d\n\n", kind, len(body))), body...)
	}
	long := strings.Repeat("all work and no play\n", 200)
	tests := []struct {
		name, kind, primary, candidate string
		want                           shadow.Verdict
	}{
		{"the same", "text/plain", long, long, shadow.Match},
		{"text that differs behind what is kept", "text/plain", long + "x", long + "y", shadow.Truncated},
		{"text that differs before", "text/plain", "x" + long, "y" + long, shadow.Mismatch},
		{"JSON that differs", "application/json", `["` + strings.Repeat("a", 2000) + `"]`, `["` + strings.Repeat("b", 2000) + `"]`, shadow.Truncated},
		{"JSON of which one is short", "application/json", `["` + strings.Repeat("a", 2000) + `"]`, `["b"]`, shadow.Truncated},
		{"what is no text is told by its hash", "image/png", "\x89" + long + "x", "\x89" + long + "y", shadow.Mismatch},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newTheatre(Options{}, 1<<10, scene{request: crlf(get), primary: reply(test.kind, test.primary), candidate: reply(test.kind, test.candidate)})
			if diff := cmp.Diff([]shadow.Verdict{test.want}, verdictsOf(s.play())); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAHeadThatIsLongerThanWhatIsKeptIsTruncated(t *testing.T) {
	t.Parallel()
	long := "X-Long: " + strings.Repeat("x", 1<<10) + "\n"
	tests := []struct {
		name         string
		client, p, c string
		reason       string
	}{
		{"the client's", "GET / HTTP/1.1\n" + long + "\n", "", "", "client: header lines are longer than what is kept at byte 1024"},
		{"the primary's", get, "HTTP/1.1 200 OK\n" + long + "\n", hello, "primary: header lines are longer than what is kept at byte 1024"},
		{"the candidate's", get, hello, "HTTP/1.1 200 OK\n" + long + "\n", "candidate: header lines are longer than what is kept at byte 1024"},
		{"too many lines", "GET / HTTP/1.1\n" + strings.Repeat("A:\n", mostHeaders+1), "", "", fmt.Sprintf("client: more header lines than are kept at byte %d", 16+4*mostHeaders)},
	}
	for _, test := range tests {
		s := newTheatre(Options{}, 1<<10+map[bool]int{true: 4 << 10}[test.name == "too many lines"])
		s.say(shadow.Client, crlf(test.client), shadow.Open)
		s.say(shadow.Primary, crlf(test.p), shadow.Open)
		s.say(shadow.Candidate, crlf(test.c), shadow.Open)
		if diff := cmp.Diff([]shadow.Verdict{shadow.Truncated}, verdictsOf(s.told)); diff != "" || s.told[0].Reason != test.reason {
			t.Errorf("%s: %+v (-want +got):\n%s", test.name, s.told, diff)
		}
	}
}

func TestAStreamThatTheClientLeavesIsTruncated(t *testing.T) {
	t.Parallel()
	const stream = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\nTransfer-Encoding: chunked\n\n5\nevent\n"
	for _, end := range []shadow.End{shadow.Closed, shadow.Reset} {
		s := newTheatre(Options{}, 1<<10)
		s.say(shadow.Client, crlf(get), shadow.Open)
		s.say(shadow.Primary, crlf(stream), shadow.Open)
		s.say(shadow.Candidate, crlf(stream), shadow.Open)
		s.say(shadow.Client, nil, end)
		if end == shadow.Closed {
			s.say(shadow.Primary, nil, shadow.Reset)
		}
		if diff := cmp.Diff([]shadow.Verdict{shadow.Truncated}, verdictsOf(s.told)); diff != "" || !s.done {
			t.Errorf("%s: done %v, verdicts (-want +got):\n%s", end, s.done, diff)
		}
	}
}

func TestDriversOfOneSplitRunAtTheSameTime(t *testing.T) {
	t.Parallel()
	drivers := New(Options{})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := range 50 {
				s := newTheatre(Options{}, 1<<10, both(fmt.Sprintf("GET /%d/%c HTTP/1.1\n\n", i, 'a'+rune(n%26)), hello))
				s.driver = drivers(shadow.Session{Keep: 1 << 10})
				if got := verdictsOf(s.play()); len(got) != 1 || got[0] != shadow.Match {
					t.Errorf("verdicts %v", got)
				}
			}
		})
	}
	all.Wait()
}
