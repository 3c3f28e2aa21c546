package splitter

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// remembered is of how many names the relay keeps anything.
func (r *testRelay) remembered() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return map[string]int{"splits": len(r.gates), "backends": len(r.counters), "circuits": len(r.circuits), "groups": len(r.groups)}
}

func (r *testRelay) wantForgotten(what string) {
	r.t.Helper()
	for of, n := range r.remembered() {
		if n > leftMost+10 {
			r.t.Errorf("%s: %d %s are remembered, want %d and some at most", what, n, of, leftMost)
		}
	}
}

func TestNamesThatComeAndGoAreForgottenAndNeitherTheNewestNorOpenFlows(t *testing.T) {
	ip := families()["IPv4"]
	service, server := netip.AddrPortFrom(ip, freePort()), startServer(t, ip, echo)
	named := func(split, trial string) traffic.Split {
		s := newSplit(split, service, server, map[string]candidate{"new": {closedPort(ip), 0}})
		s.Candidates[0].Name = trial
		return s
	}
	r := startRelay(t, Options{Workers: 2}, named("mx", "new"))
	open := dial(t, service)
	exchange(t, open, "hello")
	names := func(i int) string { return fmt.Sprint("name", i) }
	for i := range 3 * leftMost {
		r.apply(named(names(i), "new"))
	}
	r.wantForgotten("splits that came and went")
	if got := r.numbers("old"); got.Active != 1 || got.In != 5 {
		t.Errorf("of a split that went before and has an open flow: %+v, want it counted", got)
	}
	exchange(t, open, "still here")
	if r.End(r.OpenFlows(ofOld)) != 1 {
		t.Error("its flow is not found")
	}

	for i := range 3 * leftMost {
		r.apply(named("name", names(i)))
	}
	r.wantForgotten("candidates that came and went")

	last := named("last", "new")
	for comes := range uint64(3) {
		r.apply(last)
		of := func() traffic.Counts { return r.Counts()[traffic.BackendKey{Split: "last", Backend: "old"}] }
		if flows := of().Flows; flows != comes {
			t.Errorf("a split that comes back has %d flows, want %d: its numbers only grow", flows, comes)
		}
		c := dial(t, service)
		exchange(t, c, "hello")
		abortConn(c)
		nettest.Eventually(t, "its flow has ended", func() bool { return *of().Active == 0 })
		for i := range leftMost / 3 { // more than are remembered, with those before: they have two backends each
			r.apply(named(fmt.Sprint("other", comes, "-", i), "new"))
		}
	}

	taken := startServer(t, ip, echo)
	for i := range 2 * leftMost {
		refused := named(names(i), "new")
		refused.Service.Ports = append(refused.Service.Ports, traffic.Port{Number: taken.Port(), Transport: traffic.TCP})
		if err := r.Apply(t.Context(), []traffic.Split{refused}); err == nil {
			t.Fatal("a port that is taken was bound")
		}
	}
	r.wantForgotten("splits that were refused")
}

func TestSplitsWhoseSampleComesAndGoesAreForgotten(t *testing.T) {
	ip := families()["IPv4"]
	r := startRelay(t, Options{Workers: 1, LegMark: legMark})
	for i := range leftMost + 100 {
		name := fmt.Sprint("name", i)
		r.openInlet(kernelSplit(name, netip.AddrPortFrom(ip, 25), closedPort(ip)))
		r.CloseInlet(name)
	}
	r.wantForgotten("splits with an inlet")
}

func TestTheLimiterForgetsKindsOfWhichNothingIsSaid(t *testing.T) {
	var l limiter
	now := time.Unix(1_700_000_000, 0)
	for i := range 100_000 {
		now = now.Add(time.Second)
		if _, ok := l.allow(fmt.Sprint("limit of ", i), now); !ok {
			t.Fatal("the first message of a kind does not pass")
		}
		l.allow("all the time", now)
		if left, _ := l.allow("all the time", now.Add(time.Millisecond)); left != 0 {
			t.Fatalf("%d were left out, want none of those that pass", left)
		}
	}
	if n := len(l.kinds); n > kindsFew+2*int(kindsKept/time.Second)+1 {
		t.Errorf("%d kinds are remembered", n)
	}
	if left, ok := l.allow("all the time", now.Add(time.Second)); !ok || left != 1 {
		t.Errorf("of one that goes on %d are told as left out, passes: %t; want 1", left, ok)
	}
}
