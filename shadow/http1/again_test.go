package http1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// newControl is a theatre in which the one that answers is asked a second time.
func newControl(o Options, again func(string) bool, scenes ...scene) *theatre {
	s := newTheatre(o, 1<<10, scenes...)
	s.driver = New(o)(shadow.Session{Keep: 1 << 10, Control: true, Again: again})
	return s
}

func (s *theatre) sends() string { return string(s.sent[len(s.sent)-1]) }

// So its copy of a link that works once is the second one, and the client's the first.
func TestAControlIsAskedAfterTheClientWasAnswered(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 7, 1 << 10} {
		s := newControl(Options{}, nil)
		s.cut = pieces(size)
		s.say(shadow.Client, append(crlf(get), crlf(get)...), shadow.Open)
		s.say(shadow.Primary, crlf(strings.TrimSuffix(hello, "o")), shadow.Open)
		if s.sends() != "" {
			t.Errorf("in pieces of %d: it was sent %q before the client had its answer", size, s.sends())
		}
		s.say(shadow.Primary, []byte("o"), shadow.Open)
		if got, want := s.sends(), string(crlf(get)); got != want {
			t.Errorf("in pieces of %d: behind the answer it was sent %q, want %q", size, got, want)
		}
		s.say(shadow.Candidate, crlf(hello), shadow.Open)
		if got, want := s.sends(), string(crlf(get)); got != want {
			t.Errorf("in pieces of %d: before the second answer it was sent %q, want %q", size, got, want)
		}
		s.say(shadow.Primary, crlf("HTTP/1.1 200 OK\n\nhello"), shadow.Closed)
		if got, want := s.sends(), string(crlf(get+get)); got != want {
			t.Errorf("in pieces of %d: behind the last answer it was sent %q, want %q", size, got, want)
		}
	}
}

func TestAControlIsNotAskedWhatTheClientHasNoAnswerTo(t *testing.T) {
	t.Parallel()
	for _, end := range []shadow.End{shadow.Closed, shadow.Reset} {
		s := newControl(Options{}, nil)
		s.say(shadow.Client, crlf(get), shadow.Open)
		s.say(shadow.Primary, crlf(strings.TrimSuffix(hello, "o")), end)
		if diff := cmp.Diff([]shadow.Verdict{shadow.PrimaryError}, verdictsOf(s.told)); diff != "" || s.sends() != "" || !s.done {
			t.Errorf("%s: sent %q, done %v, verdicts (-want +got):\n%s", end, s.sends(), s.done, diff)
		}
	}
}

func TestAControlIsAskedOnlyWhatNoClientFeels(t *testing.T) {
	t.Parallel()
	const not = ": not asked a second time"
	tests := []struct{ request, reply, want string }{
		{get, hello, ""},
		{"HEAD / HTTP/1.1\nContent-Length: 0\n\n", "HTTP/1.1 200 OK\nContent-Length: 5\n\n", ""},
		{get, "HTTP/1.1 304 Not Modified\n\n", ""},
		{get, strings.Replace(hello, "200 OK", "404 Not Found", 1), ""},
		{post, hello, "it may change something" + not},
		{"POST /pay HTTP/1.1\nX-HTTP-Method-Override: GET\nContent-Length: 1\n\nx", hello, "it may change something" + not},
		{"GET / HTTP/1.1\nX-HTTP-Method-Override: POST\n\n", hello, "it may change something" + not},
		{"GET / HTTP/1.1\nCookie: sid=1\n\n", hello, "it has a client's session (Cookie)" + not},
		{"GET / HTTP/1.1\nAuthorization: Basic YTpi\n\n", hello, "it has a client's credentials" + not},
		{"GET / HTTP/1.1\nProxy-Authorization: Basic YTpi\n\n", hello, "it has a client's credentials" + not},
		{"GET / HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\n\n", hello, "it asks for another protocol (Upgrade)" + not},
		{"GET / HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\n\n", "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n", "it asks for another protocol (Upgrade)" + not},
		{"GET / HTTP/1.1\nContent-Length: 1\n\nx", hello, "it has a body" + not},
		{"GET / HTTP/1.1\nTransfer-Encoding: chunked\n\n0\n\n", hello, "it has a body" + not},
		{get, "HTTP/1.1 302 Found\nLocation: /login\nContent-Length: 0\n\n", "the primary has answered with a redirect" + not},
		{get, strings.Replace(hello, "200", "401", 1), "the primary has refused it" + not},
		{get, strings.Replace(hello, "200", "429", 1), "the primary has refused it" + not},
		{get, strings.Replace(hello, "200", "503", 1), "the primary has failed" + not},
	}
	for _, test := range tests {
		o := Options{Allow: []Allow{{"POST", "/**"}, {Upgraded, "/**"}}}
		s := newControl(o, nil, both(test.request, test.reply))
		told := s.play()
		sent := ""
		if test.want == "" {
			sent = string(crlf(test.request))
		}
		if told[0].Reason != test.want || (told[0].Verdict == shadow.Skipped) != (test.want != "") || s.sends() != sent {
			t.Errorf("%q, %q: %q for %q, sent %q", test.request, test.reply, told[0].Verdict, told[0].Reason, s.sends())
		}
		if told[0].Safe != (test.want == "") {
			t.Errorf("%q, %q: said to be safe to ask again: %v", test.request, test.reply, told[0].Safe)
		}
	}
}

// The candidate gets what the control does not.
func TestACandidateIsAskedWhatIsNotAskedTwice(t *testing.T) {
	t.Parallel()
	for _, request := range []string{"GET / HTTP/1.1\nCookie: sid=1\n\n", "GET / HTTP/1.1\nAuthorization: Basic YTpi\n\n"} {
		s := newTheatre(Options{}, 1<<10)
		s.say(shadow.Client, crlf(request), shadow.Open)
		if got, want := s.sends(), string(crlf(request)); got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
	}
}

func TestAControlIsAskedNoMoreThanIsWanted(t *testing.T) {
	t.Parallel()
	var asked []string
	again := func(endpoint string) bool {
		asked = append(asked, endpoint)
		return len(asked) == 2
	}
	withCookie := both("GET /b HTTP/1.1\nCookie: a=b\n\n", hello)
	s := newControl(Options{}, again, both(get, hello), withCookie, both(get, hello))
	told := s.play()
	if diff := cmp.Diff([]shadow.Verdict{shadow.Skipped, shadow.Skipped, shadow.Match}, verdictsOf(told)); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"GET /", "GET /"}, asked); diff != "" || s.sends() != string(crlf(get)) {
		t.Errorf("sent %q, asked for (-want +got):\n%s", s.sends(), diff)
	}
}
