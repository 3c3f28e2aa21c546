package http1

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

func TestAClientThatWaitsForContinueIsWaitedFor(t *testing.T) {
	t.Parallel()
	head := "POST /up HTTP/1.1\nHost: a\nExpect: 100-continue\nContent-Length: 5\n\n"
	const go100 = "HTTP/1.1 100 Continue\n\n"
	allow := Options{Allow: []Allow{{"POST", "/up"}}}
	begin := func() *theatre {
		s := newTheatre(allow, 1<<10)
		s.say(shadow.Client, crlf(head), shadow.Open)
		s.say(shadow.Primary, crlf(go100), shadow.Open)
		s.say(shadow.Client, []byte("hello"), shadow.Open)
		s.say(shadow.Primary, crlf(hello), shadow.Open)
		if string(s.sent[0]) != string(crlf(head)) {
			t.Fatalf("sent %q before the candidate has said 100 Continue", s.sent[0])
		}
		return s
	}
	t.Run("both say it", func(t *testing.T) {
		t.Parallel()
		s := begin()
		s.say(shadow.Candidate, crlf(go100), shadow.Open)
		if want := string(crlf(head)) + "hello"; string(s.sent[0]) != want {
			t.Errorf("sent %q, want %q", s.sent[0], want)
		}
		s.say(shadow.Candidate, crlf(hello), shadow.Open)
		if diff := cmp.Diff([]shadow.Verdict{shadow.Match}, verdictsOf(s.told)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("the candidate refuses: it gets no body, and another connection", func(t *testing.T) {
		t.Parallel()
		s := begin()
		s.say(shadow.Candidate, crlf("HTTP/1.1 417 Expectation Failed\nContent-Length: 0\n\n"), shadow.Open)
		s.say(shadow.Client, crlf(get), shadow.Open)
		if diff := cmp.Diff([]shadow.Verdict{shadow.Mismatch, shadow.AfterDivergence}, append(verdictsOf(s.told), verdictsOf(s.driver.Stop(shadow.AfterDivergence, ""))...)); diff != "" {
			t.Error(diff)
		}
		if string(s.sent[0]) != string(crlf(head)) {
			t.Errorf("sent %q", s.sent[0])
		}
	})
	t.Run("the candidate says nothing", func(t *testing.T) {
		t.Parallel()
		s := begin()
		s.say(shadow.Candidate, nil, shadow.TimedOut)
		if len(s.told) != 1 || s.told[0].Reason != "candidate has not said 100 Continue: timed out" {
			t.Errorf("told %v", s.told)
		}
	})
	t.Run("a client that does not wait is not waited for", func(t *testing.T) {
		t.Parallel()
		s := newTheatre(allow, 1<<10)
		s.say(shadow.Client, append(crlf(head), "hello"...), shadow.Open)
		if want := string(crlf(head)) + "hello"; string(s.sent[0]) != want {
			t.Errorf("sent %q, want %q", s.sent[0], want)
		}
	})
}

func TestARequestIsSentOnceMoreWhenTheCandidateHadClosedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newTheatre(Options{}, 1<<10)
	talk := func() {
		s.say(shadow.Client, crlf(get), shadow.Open)
		s.say(shadow.Primary, crlf(hello), shadow.Open)
	}
	talk()
	s.say(shadow.Candidate, crlf(hello), shadow.Open)
	talk()
	s.say(shadow.Candidate, nil, shadow.Closed)
	if s.redials != 1 || string(s.sent[1]) != string(crlf(get)) {
		t.Fatalf("dialled anew %d times, sent %q", s.redials, s.sent)
	}
	s.say(shadow.Candidate, nil, shadow.Closed)
	if diff := cmp.Diff([]shadow.Verdict{shadow.Match, shadow.CandidateError}, verdictsOf(s.told)); diff != "" {
		t.Errorf("closed twice: verdicts (-want +got):\n%s", diff)
	}
	talk()
	s.say(shadow.Candidate, nil, shadow.Reset)
	if len(s.told) != 3 || s.redials != 2 {
		t.Errorf("a new connection's request was sent twice: %d exchanges, %d redials", len(s.told), s.redials)
	}
}

func TestNothingFollowsAWriteBeforeBothHaveAnsweredIt(t *testing.T) {
	t.Parallel()
	s := newTheatre(Options{Allow: []Allow{{"POST", "/orders"}}}, 1<<10)
	s.say(shadow.Client, append(crlf(post), crlf(get)...), shadow.Open)
	s.say(shadow.Candidate, crlf(hello), shadow.Open)
	if got := string(s.sent[0]); got != string(crlf(post)) {
		t.Fatalf("sent %q before it is known that the primary has taken the write too", got)
	}
	s.say(shadow.Primary, crlf(hello), shadow.Open)
	if got, want := string(s.sent[0]), string(crlf(post))+string(crlf(get)); got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

// Also of what changes nothing, and whatever the primary has answered by then.
func TestARequestIsSentBehindTheWholeReplyToTheOneBefore(t *testing.T) {
	t.Parallel()
	for when, answered := range map[string]string{"before the primary has answered": "", "behind the primary": hello + hello} {
		s := newTheatre(Options{}, 1<<10)
		s.say(shadow.Client, crlf(get+get), shadow.Open)
		s.say(shadow.Primary, crlf(answered), shadow.Open)
		for _, step := range []struct{ says, has string }{
			{"", get}, {"HTTP/1.1 200 OK\nContent-Length: 5\n", get}, {"\nhel", get}, {"lo", get + get},
		} {
			s.say(shadow.Candidate, crlf(step.says), shadow.Open)
			if diff := cmp.Diff(string(crlf(step.has)), string(s.sent[0])); diff != "" {
				t.Errorf("%s, when the candidate has said %q, it has been sent (-want +got):\n%s", when, step.says, diff)
			}
		}
	}
}

func TestARequestThatIsTooLongToBeHeldBackIsNotSent(t *testing.T) {
	t.Parallel()
	const keep = 1 << 10
	long := append(crlf("POST /orders HTTP/1.1\nContent-Length: 5000\n\n"), make([]byte, 5000)...)
	s := newTheatre(Options{Allow: []Allow{{"POST", "/orders"}}}, keep)
	s.cut = pieces(100)
	s.say(shadow.Client, slices.Concat(crlf(get), long, crlf(get)), shadow.Open)
	for range 3 {
		s.say(shadow.Primary, crlf(hello), shadow.Open)
	}
	s.say(shadow.Candidate, crlf(hello), shadow.Open)
	s.say(shadow.Candidate, crlf(hello), shadow.Open)
	if diff := cmp.Diff([]shadow.Verdict{shadow.Match, shadow.Truncated, shadow.Match}, verdictsOf(s.told)); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if got, want := string(s.sent[0]), string(crlf(get))+string(crlf(get)); got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	if s.held > 4*keep+6*overhead {
		t.Errorf("held %d bytes", s.held)
	}
}

func TestALongRequestPassesWhenItIsItsTurn(t *testing.T) {
	t.Parallel()
	const keep = 1 << 10
	long := append(crlf("POST /orders HTTP/1.1\nContent-Length: 5000\n\n"), make([]byte, 5000)...)
	for _, size := range []int{100, 1 << 20} {
		s := newTheatre(Options{Allow: []Allow{{"POST", "/orders"}}}, keep)
		s.cut = pieces(size)
		s.say(shadow.Client, long, shadow.Open)
		if string(s.sent[0]) != string(long) {
			t.Errorf("in pieces of %d: sent %d bytes of %d", size, len(s.sent[0]), len(long))
		}
		if s.held > 4*keep+6*overhead {
			t.Errorf("in pieces of %d: held %d bytes", size, s.held)
		}
	}
}

func TestARequestThatIsNotKeptWholeIsNotSentOnceMore(t *testing.T) {
	t.Parallel()
	long := append(crlf("GET /orders HTTP/1.1\nContent-Length: 2000\n\n"), make([]byte, 2000)...)
	s := newTheatre(Options{}, 1<<10)
	s.cut = pieces(600)
	s.say(shadow.Client, crlf(get), shadow.Open)
	s.say(shadow.Primary, crlf(hello), shadow.Open)
	s.say(shadow.Candidate, crlf(hello), shadow.Open)
	s.say(shadow.Client, long, shadow.Open)
	s.say(shadow.Candidate, nil, shadow.Closed)
	s.say(shadow.Primary, crlf(hello), shadow.Open)
	if diff := cmp.Diff([]shadow.Verdict{shadow.Match, shadow.CandidateError}, verdictsOf(s.told)); diff != "" || s.redials > 0 {
		t.Errorf("%d redials, verdicts (-want +got):\n%s", s.redials, diff)
	}
}

func TestWhatAnOldConnectionHasStillToSayIsNotTheNewOnes(t *testing.T) {
	t.Parallel()
	const last = "HTTP/1.1 200 OK\nConnection: close\nContent-Length: 5\n\nhello"
	s := newTheatre(Options{}, 1<<10)
	s.say(shadow.Client, append(crlf(get), crlf(get)...), shadow.Open)
	s.say(shadow.Primary, append(crlf(hello), crlf(hello)...), shadow.Open)
	s.say(shadow.Candidate, append(crlf(last), "and more"...), shadow.Closed)
	if s.redials != 1 || string(s.sent[1]) != string(crlf(get)) {
		t.Fatalf("dialled anew %d times, sent %q", s.redials, s.sent)
	}
	s.say(shadow.Candidate, crlf(hello), shadow.Open)
	if diff := cmp.Diff([]shadow.Verdict{shadow.Mismatch, shadow.Match}, verdictsOf(s.told)); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
}
