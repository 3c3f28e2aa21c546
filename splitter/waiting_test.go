package splitter

import (
	"net/netip"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// waitingFlow is a flow of UDP that its candidate has been asked for and has not
// answered, and is connecting for as long as patience.
func waitingFlow(t *testing.T, patience time.Duration) (r *testRelay, split traffic.Split, trial *answerer, c speaker) {
	t.Helper()
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	trial = answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split = ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	split.Proxy.ConnectTimeout = patience
	r = startRelay(t, Options{Workers: 2}, split)
	c = speak(t, service)
	c.say("?waits")
	nettest.Eventually(t, "the candidate is asked", func() bool { return trial.times("?waits") == 1 })
	return r, split, trial, c
}

// Or `wait --for=drained` would be told too early.
func TestAFlowOfUDPThatWaitsForItsFirstAnswerIsOpen(t *testing.T) {
	r, split, trial, c := waitingFlow(t, time.Hour)
	if got := r.numbers("new"); got.Active != 1 || got.Flows != 0 {
		t.Errorf("the candidate has %+v, want one that is active, and no flow", got)
	}
	r.setWeights(split, map[string]traffic.Weight{"new": 0})
	r.Free(attemptsAt(ofNew))
	if got := r.numbers("new").Active; got != 1 {
		t.Errorf("%d flows are active that may yet be answered, want 1", got)
	}
	trial.tellAll("late")
	if got := c.hear(); got != "late" {
		t.Errorf("the answer is %q", got)
	}
	if got := r.numbers("new"); got.Active != 1 || got.Flows != 1 {
		t.Errorf("answered, the candidate has %+v, want one flow that is active", got)
	}
	r.End(r.OpenFlows(ofNew))
	if got := r.numbers("new").Active; got != 0 {
		t.Errorf("ended, %d are active", got)
	}
}

func TestAFlowOfUDPThatWaitsForItsFirstAnswerIsEndedWithTheOthers(t *testing.T) {
	r, split, _, c := waitingFlow(t, time.Hour)
	r.setWeights(split, map[string]traffic.Weight{"new": 0})
	if n := r.End(r.OpenFlows(ofNew)); n != 1 {
		t.Errorf("%d flows were ended, want 1", n)
	}
	if got := r.numbers("new"); got.Active != 0 || got.Flows != 0 {
		t.Errorf("the candidate has %+v, want nothing", got)
	}
	c.wantFrom("old")
}

func TestAFlowOfUDPStaysWhereItWaitsWhenTheCandidateIsTakenBack(t *testing.T) {
	r, split, _, c := waitingFlow(t, 300*time.Millisecond)
	r.setWeights(split, map[string]traffic.Weight{"new": 0})
	if n := r.Free(attemptsAt(ofNew)); n != 1 {
		t.Fatalf("%d flows were freed, want 1: this machine is too busy", n)
	}
	r.setWeights(split, map[string]traffic.Weight{"new": traffic.Whole})
	nettest.Eventually(t, "it is the candidate's", func() bool { return r.numbers("new").Flows == 1 })
	if got := r.openFlows(); got != 1 {
		t.Errorf("%d flows are open, want 1", got)
	}
	c.wantFrom("new")
}

func TestAFlowThatARefusalTurnsIsActiveAtThePrimaryAlone(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {closedPort(ip), traffic.Whole}}))
	split.Proxy.ConnectTimeout = time.Hour
	r := startRelay(t, Options{Workers: 1}, split)
	speak(t, service).say("?nothing")
	nettest.Eventually(t, "the primary is asked", func() bool { return old.times("?nothing") == 1 })
	if got := r.numbers("new").Active; got != 0 {
		t.Errorf("%d are active at the candidate, want none", got)
	}
	if got := r.numbers("old").Active; got != 1 {
		t.Errorf("%d are active at the primary, want 1", got)
	}
}
