package splitter

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

var ofOld = traffic.BackendKey{Split: "mx", Backend: "old"}

func TestAFlowOfUDPEndsWhenItHasBeenSilentAndIsToldWithItsCounts(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.UDPTimeout = time.Second
	told := make(chan FlowNews, 10)
	r := startRelay(t, Options{Workers: 2, FlowLog: newsTo(told)}, split)
	c := speak(t, service)
	c.ask("12345")
	c.ask("67")
	begin, end := <-told, <-told
	client := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
	want := FlowNews{
		BackendKey: ofOld, Transport: traffic.UDP, Client: client, Service: service, Server: old.at, Why: traffic.WhyOnly,
		Ends: true, End: "idle", By: "splitd", Code: "cD", BytesIn: 7, BytesOut: 7 + 2*3, DatagramsIn: 2, DatagramsOut: 2,
	}
	if end.Lived < time.Second || end.Connect <= 0 {
		t.Errorf("it lived %s and was answered after %s, want a second at least and some time", end.Lived, end.Connect)
	}
	end.At, end.Lived, end.Connect = time.Time{}, 0, 0
	if diff := cmp.Diff(want, end, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("its end (-want +got):\n%s", diff)
	}
	if begin.Ends || begin.Client != client {
		t.Errorf("its beginning: %+v", begin)
	}
	nettest.Eventually(t, "nothing is open", func() bool { return r.openFlows() == 0 && r.numbers("old").Active == 0 })
	c.wantFrom("old") // another flow
	if got := r.numbers("old"); got.Flows != 2 {
		t.Errorf("counts %+v, want 2 flows", got)
	}
}

func TestAFlowThatWasNeverAnsweredEndsSooner(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.UDPTimeout, split.Proxy.ConnectTimeout = 3*time.Second, 10*time.Millisecond
	told := make(chan FlowNews, 10)
	startRelay(t, Options{Workers: 1, FlowLog: newsTo(told)}, split)
	speak(t, service).say("?nothing comes back")
	<-told
	if n := <-told; n.End != "unanswered" || n.By != "backend" || n.Code != "sH" || n.Lived < time.Second || n.Lived >= 3*time.Second {
		t.Errorf("told %+v, want an end after a third of the time", n)
	}
}

// first_byte_timeout is opt-in: many protocols have no replies.
func TestABackendThatMustAnswerAndDoesNotIsLeftOut(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	split.Proxy.FirstByteTimeout = 30 * time.Millisecond
	r := startRelay(t, Options{Workers: 2}, split)
	nettest.Eventually(t, "the primary has what is asked by then", func() bool {
		speak(t, service).say("?anybody")
		return old.times("?anybody") > 0
	})
	if n := trial.times("?anybody"); n < circuitFailures {
		t.Errorf("the candidate was asked %d times before it was left out, want %d", n, circuitFailures)
	}
	if got := r.numbers("new").Failed; got != 0 {
		t.Errorf("%d refusals are counted, want none", got)
	}
}

func TestTheFlowsOfUDPOfABackendAreListedFoundAndEnded(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(netip.IPv4Unspecified(), freePort())
	asked := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.88"), service.Port())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	r := startRelay(t, Options{Workers: 2}, split)
	var all []speaker
	for i := range 8 {
		c := speakFrom(t, clientAt(byte(i), 1), asked)
		c.wantFrom("new")
		all = append(all, c)
	}
	r.setWeights(split, map[string]traffic.Weight{"new": 0})
	stays := speakFrom(t, clientAt(100, 1), asked)
	stays.wantFrom("old")
	found := r.FlowsOf(clientAt(3, 1), "mx", 10)
	want := []ClientFlow{{
		BackendKey: ofNew, Transport: traffic.UDP, Service: asked, Server: trial.at,
		Client: all[3].LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort(),
	}}
	if diff := cmp.Diff(want, found, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("flows of a client (-want +got):\n%s", diff)
	}
	if n := r.Free(attemptsAt(ofNew)); n != 0 {
		t.Errorf("%d answered flows were freed, want none", n)
	}
	for _, c := range all {
		c.wantFrom("new")
	}
	if n := r.End(r.OpenFlows(ofNew)); n != 8 {
		t.Errorf("%d flows were ended, want 8", n)
	}
	for _, c := range all {
		c.wantFrom("old")
	}
	if got := r.numbers("new"); got.Active != 0 || got.Flows != 8 {
		t.Errorf("the candidate has %+v, want 8 flows and none open", got)
	}
}

func TestAFlowOfUDPThatWaitsForNoAnswerLeavesAClosedCandidate(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	r := startRelay(t, Options{Workers: 2}, split)
	early := speak(t, service)
	early.say("?early")
	nettest.Eventually(t, "it is the candidate's", func() bool { return r.numbers("new").Active == 1 })
	asking := speak(t, service)
	asking.say("?just now")
	nettest.Eventually(t, "it is there", func() bool { return trial.times("?just now") == 1 })
	r.setWeights(split, map[string]traffic.Weight{"new": 0})
	if n := r.Free(attemptsAt(ofNew)); n != 2 {
		t.Errorf("%d flows were freed, want both", n)
	}
	early.wantFrom("old")
	nettest.Eventually(t, "the one that might have been answered yet has ended too", func() bool { return r.openFlows() == 1 })
	asking.wantFrom("old")
}

// One that goes on asking would keep its flow at the dead address.
func TestFlowsOfUDPLeaveAnAddressThatIsFoundDead(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	r := startRelay(t, Options{Workers: 2}, split)
	answered, waiting := speak(t, service), speak(t, service)
	answered.wantFrom("new")
	waiting.say("?lost")
	nettest.Eventually(t, "it is there", func() bool { return trial.times("?lost") == 1 })
	split.Candidates[0].Down = []netip.Addr{ip}
	r.setBackends(split)
	if n := r.Free(attemptsAt(ofNew, ip)); n != 2 {
		t.Errorf("%d flows were freed, want both", n)
	}
	nettest.Eventually(t, "the primary has the question that waits", func() bool { return old.times("?lost") == 1 })
	answered.wantFrom("old")
	waiting.wantFrom("old")
}

func TestTheEndOfTheRelayWaitsForFlowsOfUDPUpToTheDrainTimeout(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.Proxy.DrainTimeout = 2 * time.Second
	r := startRelay(t, Options{Workers: 2}, split)
	var all []speaker
	for range 8 {
		c := speak(t, service)
		c.wantFrom("old")
		all = append(all, c)
	}
	r.stop()
	nettest.Eventually(t, "the relay drains", func() bool { return r.Apply(t.Context(), nil) == ErrStopped })
	for _, c := range all {
		c.wantFrom("old")
	}
	stranger := speak(t, service)
	stranger.say("too late")
	if r.returned(100 * time.Millisecond) {
		t.Error("it ended under open flows")
	}
	if !r.returned(testPatience) {
		t.Fatal("it has not ended after the drain timeout")
	}
	if n := old.times("too late"); n != 0 {
		t.Error("a new flow has begun while the relay drained")
	}
	if _, err := all[0].Write([]byte("nobody listens")); err == nil {
		_, err = all[0].Read(make([]byte, 10))
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after the end: %v, want refused", err)
		}
	}
}

func TestFlowsOfARemovedServiceOfUDPGoOnUntilTheyAreSilent(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.UDPTimeout = time.Second
	r := startRelay(t, Options{Workers: 2}, split)
	c := speak(t, service)
	c.wantFrom("old")
	r.apply()
	late := speak(t, service)
	late.say("too late")
	for range 10 {
		c.wantFrom("old")
	}
	if n := old.times("too late"); n != 0 {
		t.Error("a new flow has begun at a service that was removed")
	}
	nettest.Eventually(t, "the address is free when the flow has ended", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.fronts) == 0
	})
	answers(t, service, "another server")
	speak(t, service).wantFrom("another server")
}

func TestAServiceOfUDPThatComesBackTakesNewFlowsAtOnce(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	r := startRelay(t, Options{Workers: 2}, split)
	c := speak(t, service)
	c.wantFrom("old")
	for range 20 {
		r.apply()
		r.apply(split)
		speak(t, service).wantFrom("old")
		c.wantFrom("old")
	}
	if got := r.numbers("old").Flows; got != 21 {
		t.Errorf("%d flows are counted, want 21", got)
	}
}

// The first client keeps its flow and its backend, through sockets of another
// front: whoever's of the workers' they are.
func TestAServiceOfUDPMovesBetweenWildcardAndAddress(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			old, other := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "other")
			service := netip.AddrPortFrom(ip, freePort())
			single := ofUDP(newSplit("mx", service, other.at, nil))
			whole := ofUDP(newSplit("mx", spot{service, traffic.UDP}.wildcard().AddrPort, old.at, nil))
			r := startRelay(t, Options{Workers: 3}, whole)
			var first []speaker
			for range 9 {
				c := speak(t, service)
				c.wantFrom("old")
				first = append(first, c)
			}
			for range 10 {
				for _, move := range []struct {
					split traffic.Split
					want  string
				}{{single, "other"}, {whole, "old"}} {
					r.apply(move.split)
					for range 3 {
						speak(t, service).wantFrom(move.want)
					}
					for _, c := range first {
						c.wantFrom("old")
					}
				}
			}
			if _, err := listen(spot{service, traffic.UDP}, 1, false); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("second listener: %v, want address already in use", err)
			}
		})
	}
}

// As when the number of sockets has changed between two datagrams of a client.
func TestADatagramThatComesToAnotherWorkerReachesItsFlow(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 3}, ofUDP(newSplit("mx", service, old.at, nil)))
	c := speak(t, service)
	c.wantFrom("old")
	var key talker
	owner := -1
	r.inspect(func(w *worker) {
		for k := range w.places {
			key, owner = k, w.number
		}
	})
	at := r.fronts[spot{service, traffic.UDP}]
	for _, w := range r.workers {
		done := make(chan struct{})
		w.post(func() {
			defer close(done)
			w.filled = max(w.filled, 1)
			w.inbox.put(0, []byte("astray"))
			w.deliver(w.placeOf(at), key, 0, 1)
		})
		<-done
		if got := c.hear(); got != "oldastray" {
			t.Errorf("by worker %d the answer is %q", w.number, got)
		}
	}
	if got := r.numbers("old"); got.Flows != 1 || owner < 0 {
		t.Errorf("%+v, want the one flow", got)
	}
	// And when it has ended meanwhile, its owner begins another.
	r.workers[owner].post(func() {
		r.workers[owner].handed(at, key, []byte("late"))
	})
	if got := c.hear(); got != "oldlate" {
		t.Errorf("the answer is %q", got)
	}
}

func TestAPortOfUDPThatAnotherProgramHoldsIsAnErrorWithItsCure(t *testing.T) {
	ip := families()["IPv4"]
	taken := answersAnywhere(t, ip, "x")
	err := New(Options{}).Apply(t.Context(), []traffic.Split{ofUDP(newSplit("mx", taken.at, closedPort(ip), nil))})
	want := fmt.Sprintf("listen %q for split %q: address already in use: another program holds it: give splitd an address of its own, or use mode: kernel", taken.at.String()+"/udp", "mx")
	if err == nil || err.Error() != want {
		t.Errorf("Apply() = %v\nwant %s", err, want)
	}
}

func TestNothingIsLeftOfTwoThousandFlowsOfUDP(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, answersAnywhere(t, ip, "old").at, map[string]candidate{
		"new": {closedPort(ip), traffic.Whole / 4}, "newer": {answersAnywhere(t, ip, "new").at, traffic.Whole / 4},
	}))
	split.UDPTimeout = time.Second
	r := startRelay(t, Options{Workers: 2, Draw: seededDraw(5)}, split)
	goroutines, files := runtime.NumGoroutine(), len(openFiles(t))
	for i := range 2000 {
		c := speakFrom(t, clientAt(byte(i), byte(i>>8)), service)
		c.say("x")
		_ = c.Close()
	}
	nettest.Eventually(t, "goroutines, files and tables are back at base", func() bool {
		left := 0
		r.inspect(func(w *worker) { left += len(w.places) + w.retained })
		for i := range r.owners.parts {
			part := &r.owners.parts[i]
			part.mu.Lock()
			left += len(part.workers)
			part.mu.Unlock()
		}
		return r.openFlows() == 0 && left == 0 && runtime.NumGoroutine() <= goroutines && len(openFiles(t)) <= files && r.files.used.Load() == 0
	})
	for _, name := range []string{"old", "new", "newer"} {
		if n := r.numbers(name); n.Active != 0 {
			t.Errorf("backend %q has %d active flows, want 0", name, n.Active)
		}
	}
}

func TestAPanicCostsThatFlowOfUDPAlone(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	var armed atomic.Bool
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return &panicEdge{armed: &armed} }}, ofUDP(newSplit("mx", service, old.at, nil)))
	one, other := speak(t, service), speak(t, service)
	one.wantFrom("old")
	other.wantFrom("old")
	armed.Store(true)
	one.say("?boom")
	nettest.Eventually(t, "the panic is counted", func() bool { return r.Faults().Panics == 1 })
	other.wantFrom("old")
	one.wantFrom("old")
}

// panicEdge panics once.
type panicEdge struct {
	system
	armed *atomic.Bool
}

func (e *panicEdge) give(socket int, of *batch, first, last int) (int, syscall.Errno) {
	if e.armed.CompareAndSwap(true, false) {
		panic("boom")
	}
	return e.system.give(socket, of, first, last)
}
