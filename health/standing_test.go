package health_test

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/health"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// results reads one check per letter, a second after the other: p passed,
// f failed, ? unknown.
func results(s health.Standing, rules health.Rules, letters string) (states string, last health.Standing) {
	now := noon
	for _, letter := range letters {
		now = now.Add(time.Second)
		result := map[rune]health.Result{
			'p': {Outcome: health.Passed}, 'f': {Outcome: health.Failed, Reason: "refused"}, '?': {Reason: "no memory"},
		}[letter]
		s = health.Next(s, result, rules, now)
		states += string([]byte(s.State)[0])
	}
	return states, s
}

func TestResultsInARowChangeTheState(t *testing.T) {
	rules := health.Rules{Fall: 2, Rise: 3, Steady: 30 * time.Second}
	tests := []struct {
		name    string
		initial health.State
		results string
		states  string // after each: c checking, u up, d down
	}{
		{"the first success makes it up", health.Checking, "p", "u"},
		{"before the first success failures count", health.Checking, "fp", "cu"},
		{"fall failures make it down", health.Checking, "ff", "cd"},
		{"one failure does not", health.Checking, "pfpfpfp", "uuuuuuu"},
		{"a success in between begins anew", health.Checking, "pfpff", "uuuud"},
		{"rise successes make it up again", health.Checking, "ffppp", "cdddu"},
		{"a failure in between begins anew", health.Checking, "ffppfppp", "cddddddu"},
		{"what was down must rise first", health.Down, "ppp", "ddu"},
		{"what is unknown changes nothing", health.Checking, "?pf????f", "cuuuuuud"},
		{"and brings nothing up", health.Down, "pp??p", "ddddu"},
	}
	for _, tt := range tests {
		states, _ := results(health.Standing{State: tt.initial}, rules, tt.results)
		if states != tt.states {
			t.Errorf("%s: after %s it is %s, want %s", tt.name, tt.results, states, tt.states)
		}
	}
}

func TestAStandingRemembersWhyAndSinceWhen(t *testing.T) {
	rules := health.Rules{Fall: 2, Rise: 3, Steady: time.Minute}
	_, got := results(health.Standing{State: health.Checking}, rules, "pff?")
	want := health.Standing{
		State: health.Down, Since: noon.Add(3 * time.Second), Falls: 1,
		Reason: "refused", Trouble: "no memory", Checked: noon.Add(4 * time.Second),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("standing (-want +got):\n%s", diff)
	}
	_, got = results(health.Standing{State: health.Up}, rules, "fp")
	if got.Reason != "" || got.Trouble != "" {
		t.Errorf("after a success the reason is %q and the trouble %q, want none", got.Reason, got.Trouble)
	}
}

// A target that goes up and down is used again later and later, and is trusted
// as before once it has been steady.
func TestATargetThatFlapsHasToShowMore(t *testing.T) {
	rules := health.Rules{Fall: 1, Rise: 2, Steady: 30 * time.Second}
	s := health.Standing{State: health.Checking}
	rise := func() (needed int) {
		_, s = results(s, rules, "f")
		for s.State == health.Down {
			_, s = results(s, rules, "p")
			needed++
		}
		return needed
	}
	for fall, want := range []int{2, 2, 4, 8, 16, 16, 16} {
		if got := rise(); got != want {
			t.Errorf("after fall %d it needed %d successes, want %d", fall+1, got, want)
		}
	}
	_, s = results(s, rules, strings.Repeat("p", 35))
	if got := rise(); got != 2 {
		t.Errorf("after half a minute without a fall it needed %d successes, want 2", got)
	}
}

// The model counts the last results anew each time; whatever they are, a
// target is down only after fall failures and up only after rise successes.
func TestNoStateChangesWithoutItsResultsInARow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	rules := health.Rules{Fall: 3, Rise: 4, Steady: time.Hour}
	for range 200 {
		s := health.Standing{State: health.Checking}
		var seen strings.Builder
		for range 100 {
			letter := string("ppfff?"[random.IntN(6)])
			before := s
			_, s = results(s, rules, letter)
			if letter != "?" {
				seen.WriteString(letter)
			}
			switch {
			case before.State == s.State:
			case s.State == health.Down && strings.HasSuffix(seen.String(), "fff"):
			case s.State == health.Up && before.State == health.Checking && letter == "p":
			case s.State == health.Up && strings.HasSuffix(seen.String(), strings.Repeat("p", rules.Needed(before.Falls))):
			default:
				t.Fatalf("it became %s after %s", s.State, seen.String())
			}
		}
	}
}
