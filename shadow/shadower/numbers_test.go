package shadower

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

// unheard is a process that is told, and hears nothing yet.
func unheard() *Process { return New(ProcessOptions{Budget: 64 << 20}) }

// begun is a play of its; where nobody hears nobody has to close it.
func begun(t *testing.T, p *Process) *Play {
	t.Helper()
	one, err := p.Play(Options{Split: split(netip.MustParseAddrPort("127.0.0.1:1"))})
	if err != nil {
		t.Fatal(err)
	}
	one.Begin()
	return one
}

// counted are the numbers of a process.
func counted(compared, dropped uint64, declined runner.Declined, resets uint64) play.Numbers {
	return play.Numbers{
		Counts: play.Counts{Declined: declined.Plus(runner.Declined{Late: 9}), Elsewhere: runner.Declined{Late: 9}, Panicked: declined.Full, Unsound: declined.Broken, Resets: resets},
		// What they are shown of comes from the parts alone.
		Eligible: 1000, Coverage: map[string]uint64{"compared": compared, "dropped": dropped},
	}
}

func TestCountersGoBackOnlyWhenTheReportBeginsAnew(t *testing.T) {
	const first, second = 1 << 40, 2 << 40
	some := runner.Declined{Full: 3, Broken: 2, Stopped: 1}
	type shows struct {
		compared, dropped uint64
		declined          runner.Declined
	}
	for name, test := range map[string]struct {
		happens func(s *shown)
		want    shows
	}{
		"they grow": {func(s *shown) {
			s.hear(counted(12, 4, some, 0), first)
		}, shows{12, 4, some}},
		"a process has died that had more than was saved": {func(s *shown) {
			s.hear(counted(7, 6, runner.Declined{}, 0), second)
		}, shows{10, 6, some}},
		"and another has come as far": {func(s *shown) {
			s.hear(counted(7, 6, runner.Declined{}, 0), second)
			s.hear(counted(11, 7, some, 0), second)
		}, shows{11, 7, some.Plus(some)}},
		"the report begins anew": {func(s *shown) {
			s.hear(counted(1, 0, some, 1), first)
		}, shows{1, 0, some}},
		"an answer comes from before": {func(s *shown) {
			s.forget(first, 1)
			s.hear(counted(12, 4, some, 0), first)
			s.hear(counted(2, 0, some, 1), first)
		}, shows{2, 0, some}},
		"a report that began anew is all that a new process has": {func(s *shown) {
			s.forget(first, 1)
			s.hear(counted(1, 0, runner.Declined{}, 0), second)
		}, shows{1, 0, some}},
		"a report begins anew in a process that nobody has heard yet": {func(s *shown) {
			s.forget(second, 1)
			s.hear(counted(1, 0, runner.Declined{}, 1), second)
		}, shows{1, 0, some}},
		"another candidate": {func(s *shown) {
			of := &Play{options: Options{Split: traffic.Split{Protocol: "http"}}, shown: *s}
			*s = of.shownTo(traffic.Split{Protocol: "smtp"})
			s.hear(counted(1, 0, runner.Declined{}, 0), first)
		}, shows{1, 0, some}},
		"another rule": {func(s *shown) {
			of := &Play{options: Options{Split: traffic.Split{Protocol: "http"}}, shown: *s}
			*s = of.shownTo(traffic.Split{Protocol: "http", Sample: 7})
			s.hear(counted(11, 4, some, 0), first)
		}, shows{11, 4, some}},
	} {
		t.Run(name, func(t *testing.T) {
			var s shown
			s.hear(counted(10, 4, some, 0), first)
			test.happens(&s)
			got, n := shows{s.last.Coverage["compared"], s.last.Coverage["dropped"], s.last.Declined}, s.last
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(shows{})); diff != "" {
				t.Errorf("shown (-want +got):\n%s", diff)
			}
			if n.Eligible != got.compared+got.dropped || n.Panicked != got.declined.Full || n.Unsound != got.declined.Broken {
				t.Errorf("the sum, or what else is counted, is not right: %+v", n)
			}
		})
	}
}

func TestWhereOneAnswerIsLateNobodyElseWaitsForHis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := unheard()
		var plays []*Play
		for range 100 {
			plays = append(plays, begun(t, p))
		}
		begin := time.Now()
		for _, one := range plays {
			if n := one.Numbers(); n.Away != ErrLate.Error() {
				t.Errorf("away is %q", n.Away)
			}
		}
		if waited := time.Since(begin); waited != numbersPatience {
			t.Errorf("all together wait %v, want %v", waited, numbersPatience)
		}
		life, err := p.editions()
		if err != nil {
			t.Fatal(err)
		}
		plays[7].hear(Answer{}, life, time.Now())
		begin = time.Now()
		begun(t, p).Numbers()
		if waited := time.Since(begin); waited != numbersPatience {
			t.Errorf("after an answer the next one waits %v, want %v", waited, numbersPatience)
		}
	})
}

func TestWhileTheCandidateIsLeftAloneNoFlowIsWrittenIntoARing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := unheard()
		one := begun(t, p)
		life, err := p.editions()
		if err != nil {
			t.Fatal(err)
		}
		hear := func(run uint64, rests time.Duration) {
			one.hear(Answer{Run: run, Numbers: play.Numbers{Counts: play.Counts{Breaker: "it hangs", Rests: rests}}}, life, time.Now())
		}
		var want runner.Declined
		flows := func(what string, played bool) {
			t.Helper()
			told := one.account.opened.Load()
			if got := one.Open(flow, 0) != nil; got != played || one.account.opened.Load()-told != map[bool]uint64{true: 1}[played] {
				t.Errorf("%s: a flow is played: %t, want %t", what, got, played)
			}
			if !played {
				want.Broken++
			}
			if diff := cmp.Diff(want, one.account.declined()); diff != "" {
				t.Errorf("%s: declined (-want +got):\n%s", what, diff)
			}
		}
		flows("nothing is heard", true)
		hear(1, time.Minute)
		flows("the breaker is open", false)
		time.Sleep(time.Minute - time.Nanosecond)
		flows("it is open yet", false)
		time.Sleep(time.Nanosecond)
		flows("the pause is over", true)
		hear(1, time.Minute)
		hear(1, 0)
		flows("it was answered before", true)
		hear(1, time.Minute)
		one.Halt()
		one.Begin()
		flows("another run has a breaker of its own", true)
		hear(1, time.Minute)
		flows("an answer is about the last run", true)
		hear(3, time.Minute)
		flows("the breaker of this one is open", false)
		p.bury()
		if one.rest.Load() != nil {
			t.Error("another process has the breaker of the last one")
		}
	})
}

func TestAFlowOfAThreadThatHasAsManyAsItCanIsNotLate(t *testing.T) {
	p := unheard()
	one := begun(t, p)
	for i := range flagsOf {
		if one.Open(flow, 0) == nil {
			t.Fatalf("flow %d is not played", i)
		}
	}
	if one.Open(flow, 0) != nil {
		t.Error("a flow has a slot that another one has")
	}
	if diff := cmp.Diff(runner.Declined{Full: 1}, one.account.declined()); diff != "" {
		t.Errorf("declined (-want +got):\n%s", diff)
	}
}
