package http1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

func TestAnUpgradeIsFollowedWhereItIsAllowed(t *testing.T) {
	t.Parallel()
	const (
		ask      = "GET /chat HTTP/1.1\nHost: a\nConnection: Upgrade\nUpgrade: websocket\n\n"
		switched = "HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket\n\n"
	)
	allow := Options{Allow: []Allow{{Upgraded, "/chat"}}}
	tests := []struct {
		name               string
		options            Options
		candidate          string
		primary, candidat2 string
		ends               bool
		want               []shadow.Verdict
		sent               string
	}{
		{"both switch and say the same", allow, switched, "hi there", "hi there", true, []shadow.Verdict{shadow.Match, shadow.Match}, "client"},
		{"both switch, the candidate says something else", allow, switched, "hi there", "hi thexe", false, []shadow.Verdict{shadow.Match, shadow.Mismatch}, "client"},
		{"the candidate says less", allow, switched, "hi there", "hi", true, []shadow.Verdict{shadow.Match, shadow.Mismatch}, "client"},
		{"both switch, and what follows is not allowed", Options{}, switched, "hi", "hi", true, []shadow.Verdict{shadow.Match, shadow.Skipped}, ""},
		{"the candidate does not switch", allow, hello, "hi", "", true, []shadow.Verdict{shadow.Mismatch, shadow.AfterDivergence}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, candidateFirst := range []bool{true, false} {
				for _, size := range []int{1, 1 << 10} {
					s := newTheatre(test.options, 1<<10)
					s.cut = pieces(size)
					s.say(shadow.Client, crlf(ask), shadow.Open)
					if candidateFirst {
						s.say(shadow.Candidate, append(crlf(test.candidate), test.candidat2...), shadow.Open)
					}
					s.say(shadow.Primary, append(crlf(switched), test.primary...), shadow.Open)
					s.say(shadow.Client, []byte("client"), shadow.Open)
					if !candidateFirst {
						s.say(shadow.Candidate, append(crlf(test.candidate), test.candidat2...), shadow.Open)
					}
					if test.ends {
						s.say(shadow.Client, nil, shadow.Closed)
						s.say(shadow.Primary, nil, shadow.Closed)
						s.say(shadow.Candidate, nil, shadow.Closed)
					}
					if diff := cmp.Diff(test.want, verdictsOf(s.told)); diff != "" || !s.done {
						t.Errorf("candidate first %v, pieces of %d: done %v, verdicts (-want +got):\n%s\n%v", candidateFirst, size, s.done, diff, s.told)
					}
					// of a stream that differs no more is sent once it is known
					if got := strings.TrimPrefix(string(s.sent[0]), string(crlf(ask))); !strings.HasPrefix(test.sent, got) || test.ends && got != test.sent {
						t.Errorf("candidate first %v, pieces of %d: sent %q, want %q", candidateFirst, size, got, test.sent)
					}
				}
			}
		})
	}
}

func TestAnUpgradeOfTheCandidateAloneIsADecision(t *testing.T) {
	t.Parallel()
	s := newTheatre(Options{}, 1<<10)
	s.say(shadow.Client, crlf("GET /chat HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\n\n"), shadow.Open)
	s.say(shadow.Candidate, crlf("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\n"+"raw"), shadow.Open)
	s.say(shadow.Primary, crlf(hello), shadow.Open)
	if got := shadow.Differences(s.told[0], nil)[0]; got.Level != shadow.Decision || got.Path != "class" {
		t.Errorf("heaviest difference is %+v", got)
	}
	s.say(shadow.Client, crlf(get), shadow.Open)
	if s.redials != 1 || string(s.sent[1]) != string(crlf(get)) {
		t.Errorf("dialled anew %d times, sent %q", s.redials, s.sent)
	}
}
