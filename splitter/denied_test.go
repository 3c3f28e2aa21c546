package splitter

import (
	"net/netip"
	"strings"
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

// As by a rule of the OUTPUT chain, a full conntrack table, or a route that is gone.
func TestADatagramThatThisHostForbidsOrHasNoRouteForGoesToThePrimaryOnceAndIsNoFaultOfTheCandidate(t *testing.T) {
	for cause, said := range map[syscall.Errno]string{unix.EPERM: "a firewall of this host", unix.ENETUNREACH: "this host has no route"} {
		t.Run(cause.Error(), func(t *testing.T) {
			r, e, old, _, service := haltedRelay(t, traffic.Whole)
			for range circuitFailures + 1 {
				e.cause <- cause
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
			nettest.Eventually(t, "the log says what it is", func() bool { return strings.Contains(r.logs.String(), said) })
		})
	}
}

// The kernel says so when the flow's socket is to be given its peer.
func TestACandidateOfUDPToWhichThisHostHasNoRouteIsNotBlamed(t *testing.T) {
	ip := families()["IPv4"]
	nowhere := netip.MustParseAddrPort("192.0.2.1:53") // RFC 5737; the tests' loopback is alone
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{}, ofUDP(newSplit("mx", service, answersAnywhere(t, ip, "old").at, map[string]candidate{"new": {nowhere, traffic.Whole}})))
	for range circuitFailures + 1 {
		speak(t, service).wantFrom("old")
	}
	if failed, dials := r.numbers("new").Failed, r.Faults().Dials; failed != 0 || dials != circuitFailures+1 || r.avoided() != 0 {
		t.Errorf("the candidate has %d failures, %d flows avoided it, and this host has %d faults; want none, none, %d", failed, r.avoided(), dials, circuitFailures+1)
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
