package play

import (
	"testing"
	"time"
)

func TestFlowsLearnWhileAnEndpointOfLateWantsItAndThenNowAndThen(t *testing.T) {
	var l learner
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	controls := map[string]int{}
	wants := func(name string, draw float64) bool { return controls[name] < 5 || draw < 0.01 }
	learnt := 0
	for i := range 20 {
		l.saw("GET /")
		if l.wants(wants, 0.5, noon.Add(time.Duration(i)*time.Second)) {
			learnt++
			controls["GET /"]++
		}
	}
	if learnt != 5 {
		t.Errorf("%d flows learn, want 5", learnt)
	}
	if !l.wants(wants, 0.001, noon.Add(time.Hour)) {
		t.Error("none learns now and then")
	}
	l.saw("GET /new")
	if !l.wants(wants, 0.5, noon.Add(2*time.Hour)) {
		t.Error("a new endpoint is not learnt")
	}
	for range recentKept {
		l.saw("GET /")
	}
	if l.wants(wants, 0.5, noon.Add(3*time.Hour)) {
		t.Error("an endpoint that nobody asks for any more is learnt on and on")
	}
}

func TestAPrimaryIsAskedASecondTimeByAFewFlowsASecond(t *testing.T) {
	var l learner
	l.saw("EHLO")
	always := func(string, float64) bool { return true }
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	learnt := 0
	for i := range 10_000 { // in ten seconds
		if l.wants(always, 0, noon.Add(time.Duration(i)*time.Millisecond)) {
			learnt++
		}
	}
	if most := 11 * controlsEach; learnt > most || learnt < most-2 {
		t.Errorf("%d flows learn in ten seconds, want %d", learnt, most)
	}
}

func TestWhereNothingMayBeAskedTwiceFewFlowsTry(t *testing.T) {
	var l learner
	never := func(string, float64) bool { t.Error("no endpoint is known"); return false }
	noon := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	learnt := 0
	for i := range 1000 {
		if l.wants(never, 0.5, noon.Add(time.Duration(i)*time.Second)) {
			learnt++
		}
	}
	if learnt != blindFirst || !l.wants(never, 0, noon.Add(time.Hour)) {
		t.Errorf("%d flows try, want %d and then a share", learnt, blindFirst)
	}
}
