package splitter

import (
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// haltedRelay is a relay whose datagrams are refused for causes that are told.
func haltedRelay(t *testing.T, weight traffic.Weight) (r *testRelay, e *haltedEdge, old, trial *answerer, service netip.AddrPort) {
	t.Helper()
	ip := families()["IPv4"]
	old, trial = answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service = netip.AddrPortFrom(ip, freePort())
	e = &haltedEdge{cause: make(chan syscall.Errno, 8)}
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, weight}}))
	return startRelay(t, Options{Workers: 1, edge: func() edge { return e }}, split), e, old, trial, service
}

// As by a rule of the OUTPUT chain, or a full conntrack table.
func TestADatagramThatThisHostForbidsGoesToThePrimaryOnceAndIsNoFaultOfTheCandidate(t *testing.T) {
	r, e, old, _, service := haltedRelay(t, traffic.Whole)
	for range circuitFailures + 1 {
		e.cause <- unix.EPERM
		c := speak(t, service)
		c.wantFrom("old")
		c.ask("again") // behind a second one, were there any
	}
	if n := old.times("who?"); n != circuitFailures+1 {
		t.Errorf("the primary was asked %d times, want %d", n, circuitFailures+1)
	}
	if got := r.numbers("new"); got.Failed != 0 {
		t.Errorf("the candidate has %+v, want no failure", got)
	}
	speak(t, service).wantFrom("new")
	if got := r.Faults().Dials; got != circuitFailures+1 {
		t.Errorf("%d faults of this host are counted, want %d", got, circuitFailures+1)
	}
}

func TestADatagramThatTheBackendRefusesAtOnceGoesToThePrimaryOnce(t *testing.T) {
	_, e, old, _, service := haltedRelay(t, traffic.Whole)
	e.cause <- unix.ECONNREFUSED
	c := speak(t, service)
	c.wantFrom("old")
	c.ask("again") // behind a second one, were there any
	if n := old.times("who?"); n != 1 {
		t.Errorf("the primary was asked %d times, want once", n)
	}
}

func TestWhatThisHostForbidsOrHasNoRouteForCostsAnAnsweredFlowThatDatagramAlone(t *testing.T) {
	for _, cause := range []syscall.Errno{unix.EPERM, unix.ENETUNREACH} {
		r, e, _, trial, service := haltedRelay(t, traffic.Whole)
		c := speak(t, service)
		c.wantFrom("new")
		e.cause <- cause
		c.say("?lost")
		nettest.Eventually(t, "it is counted", func() bool { return r.Faults().Datagrams == 1 })
		c.wantFrom("new")
		if got := r.numbers("new"); got.Flows != 1 || got.Active != 1 || trial.ports() != 1 {
			t.Errorf("%s: the candidate has %+v from %d sockets, want the one flow", cause, got, trial.ports())
		}
	}
}

// The kernel tells of a way that takes no more than so much (ICMP, RFC 1191 and
// RFC 8201) at the next call, whatever that sends.
func TestADatagramIsSentOnceMoreWhenThereIsNewsOfTheWaysSize(t *testing.T) {
	r, e, old, _, service := haltedRelay(t, 0)
	c := speak(t, service)
	e.cause <- unix.EMSGSIZE
	c.wantFrom("old")
	e.cause <- unix.EMSGSIZE
	c.wantFrom("old")
	if got := r.Faults().Datagrams; got != 0 || old.times("who?") != 2 {
		t.Errorf("%d datagrams are counted as dropped, %d came; want none and both", got, old.times("who?"))
	}
	e.cause <- unix.EMSGSIZE
	e.cause <- unix.EMSGSIZE
	c.say("?too large for any")
	nettest.Eventually(t, "it is counted", func() bool { return r.Faults().Datagrams == 1 })
	c.wantFrom("old")
}
