package splitter

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

var ofOld = traffic.BackendKey{Split: "mx", Backend: "old"}

// aTick is by how much a timeout may end before its time: a worker's clock counts
// milliseconds that are over.
const aTick = time.Millisecond

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
	if end.Lived < time.Second-aTick || end.Connect <= 0 {
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
	if n := <-told; n.End != "unanswered" || n.By != "backend" || n.Code != "sH" || n.Lived < time.Second-aTick || n.Lived >= 3*time.Second {
		t.Errorf("told %+v, want an end after a third of the time", n)
	}
}

func TestAReplyIsTheFlowsThatEndsBeforeItIsSent(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	told := make(chan FlowNews, 10)
	r := startRelay(t, Options{Workers: 1, FlowLog: newsTo(told)}, ofUDP(newSplit("mx", service, old.at, nil)))
	c := speak(t, service)
	c.wantFrom("old")
	<-told
	w, holds, held := r.workers[0], make(chan struct{}), make(chan struct{})
	w.post(func() {
		close(holds)
		<-held
		w.flows.each(func(f *flow) {
			w.replied(f)
			w.abort(f, endKilled)
		})
		w.flush() // as at the end of a round
	})
	<-holds
	old.tellAll("last words")
	close(held)
	if got := c.hear(); got != "last words" {
		t.Errorf("the client hears %q", got)
	}
	if n := <-told; n.DatagramsOut != 2 || n.BytesOut != uint64(len("oldwho?")+len("last words")) {
		t.Errorf("the end tells of %d datagrams and %d bytes, want both replies", n.DatagramsOut, n.BytesOut)
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
	nettest.Eventually(t, "it is the candidate's", func() bool { return r.numbers("new").Flows == 1 })
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
