package splitter

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestHowLongAFlowOfUDPMayBeSilent(t *testing.T) {
	for _, c := range []struct {
		limit    time.Duration
		answered bool
		lived    time.Duration
		want     time.Duration
	}{
		{0, false, 0, 30 * time.Second},
		{0, false, time.Hour, 30 * time.Second},
		{0, true, 2 * time.Second, 30 * time.Second},
		{0, true, 2*time.Second + 1, 2 * time.Minute},
		{5 * time.Second, true, time.Hour, 5 * time.Second},
		{30 * time.Second, false, time.Hour, 10 * time.Second},
		{5 * time.Second, false, 0, time.Second},
		{time.Second, false, 0, time.Second},
		{time.Second, true, 0, time.Second},
	} {
		if got := silenceOf(c.limit, c.answered, c.lived); got != c.want {
			t.Errorf("limit %s, answered %t, for %s: %s, want %s", c.limit, c.answered, c.lived, got, c.want)
		}
	}
}

func TestARefusalTurnsAFlowThatHasAnotherBackendAndWasNeverAnswered(t *testing.T) {
	for _, c := range []struct {
		answered, others, primary bool
		fallback                  traffic.Fallback
		want                      upon
	}{
		{false, false, true, traffic.FallbackPrimary, uponOther},
		{false, true, true, traffic.FallbackNone, uponOther},
		{false, true, false, traffic.FallbackPrimary, uponOther},
		{false, false, true, traffic.FallbackNone, uponEnd},
		{false, false, false, traffic.FallbackPrimary, uponEnd},
		{true, true, true, traffic.FallbackPrimary, uponEnd},
	} {
		if got := uponRefusal(c.answered, c.others, c.primary, c.fallback); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func TestACandidateThatRefusesCostsAClientOfUDPNothing(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			old := answersAnywhere(t, ip, "old")
			service := netip.AddrPortFrom(ip, freePort())
			split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {closedPort(ip), traffic.Whole}}))
			told := make(chan FlowNews, 100)
			r := startRelay(t, Options{Workers: 2, FlowLog: newsTo(told)}, split)
			for i := range circuitFailures {
				c := speak(t, service)
				c.wantFrom("old")
				c.wantFrom("old")
				if got := r.numbers("new"); got.Failed != uint64(i+1) || got.Flows != 0 {
					t.Errorf("after %d clients: the candidate has %+v, want as many failures and no flow", i+1, got)
				}
			}
			if n := <-told; n.Backend != "old" || n.But != traffic.ButFallback || n.Meant != "new" || n.Transport != traffic.UDP {
				t.Errorf("the flow log tells %+v, want the primary's by fallback", n)
			}
			speak(t, service).wantFrom("old")
			if got := *r.Counts()[ofNew].Avoided; got != 1 {
				t.Errorf("%d flows have avoided the candidate once its circuit is open, want 1", got)
			}
			if got := r.numbers("old"); got.Flows != circuitFailures+1 || got.Failed != 0 {
				t.Errorf("the primary has %+v, want all flows", got)
			}
		})
	}
}

// Both datagrams are on their way before the refusal of the first is heard.
func TestNoDatagramIsLostThatARefusalKeptFromBeingSent(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {closedPort(ip), traffic.Whole}}))
	r := startRelay(t, Options{Workers: 1}, split)
	c := speak(t, service)
	stopped := make(chan struct{})
	r.workers[0].post(func() { <-stopped })
	c.say("?first")
	c.say("?second")
	close(stopped)
	nettest.Eventually(t, "the primary has both", func() bool { return old.times("?first") == 1 && old.times("?second") == 1 })
}

func TestWithoutFallbackARefusalIsPassedOnAsSilence(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {closedPort(ip), traffic.Whole}}))
	split.Proxy.Fallback = traffic.FallbackNone
	r := startRelay(t, Options{Workers: 2}, split)
	speak(t, service).say("anybody?")
	nettest.Eventually(t, "the failure is counted and the flow ends", func() bool { return r.numbers("new").Failed == 1 && r.openFlows() == 0 })
	if n := old.times("anybody?"); n != 0 {
		t.Error("the primary has got it")
	}
}

func TestAPrimaryThatRefusesIsAskedAgainByTheNextDatagram(t *testing.T) {
	ip := families()["IPv4"]
	at := closedPort(ip)
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 2}, ofUDP(newSplit("mx", service, at, nil)))
	c := speak(t, service)
	c.say("too early")
	nettest.Eventually(t, "the failure is counted and the flow ends", func() bool { return r.numbers("old").Failed == 1 && r.openFlows() == 0 })
	answers(t, at, "old")
	c.wantFrom("old")
}

// As by an RST: who was a client of it is drawn anew.
func TestARefusalAfterAnAnswerEndsTheFlow(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	told := make(chan FlowNews, 10)
	r := startRelay(t, Options{Workers: 2, FlowLog: newsTo(told)}, split)
	c := speak(t, service)
	c.wantFrom("new")
	if n := <-told; n.Backend != "new" || n.Ends {
		t.Fatalf("the flow log tells %+v, want the beginning", n)
	}
	_ = trial.conn.Close()
	c.say("the server has gone")
	if n := <-told; n.End != "reset" || n.By != "backend" || n.Code != "SD" || n.DatagramsIn != 2 || n.DatagramsOut != 1 {
		t.Errorf("the flow log tells %+v, want its end by the backend", n)
	}
	c.wantFrom("old")
	if got := r.numbers("new"); got.Active != 0 || got.Flows != 1 || got.Failed != 1 {
		t.Errorf("the candidate has %+v, want one flow that has ended, and the new one's failure", got)
	}
}

// It has no reply to give: after a while it is the flow's backend all the same.
func TestABackendThatOnlyListensHasTheFlow(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	split.Proxy.ConnectTimeout = 50 * time.Millisecond
	told := make(chan FlowNews, 10)
	r := startRelay(t, Options{Workers: 2, FlowLog: newsTo(told)}, split)
	c := speak(t, service)
	c.say("?a line of a log")
	nettest.Eventually(t, "it is counted", func() bool { return r.numbers("new").Flows == 1 })
	<-told
	_ = trial.conn.Close()
	c.say("?a line that is lost")
	if n := <-told; n.End != "refused" || n.Backend != "new" || n.DatagramsIn != 2 {
		t.Errorf("the flow log tells %+v, want the end of the candidate's part", n)
	}
	c.say("?a line for the primary")
	nettest.Eventually(t, "the primary has it", func() bool { return old.times("?a line for the primary") == 1 })
	nettest.Eventually(t, "the flow is the primary's", func() bool { return r.numbers("old").Active == 1 && r.numbers("new").Active == 0 })
	if n := <-told; n.Backend != "old" || n.But != traffic.ButFallback || n.Ends {
		t.Errorf("the flow log tells %+v, want the beginning at the primary", n)
	}
}

// Hosts send refusals seldom (icmp_ratelimit): flows that wait without one are
// moved when others have shown that nobody is there.
func TestAFlowThatWaitsInVainIsMovedOnceTheCircuitIsOpen(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	r := startRelay(t, Options{Workers: 2}, split)
	c := speak(t, service)
	c.say("?no answer")
	nettest.Eventually(t, "the candidate has it", func() bool { return trial.times("?no answer") == 1 })
	r.mu.Lock()
	circuit := r.circuits[circuitKey{ofNew, spot{trial.at, traffic.UDP}}]
	r.mu.Unlock()
	for range circuitFailures {
		circuit.failed(0)
	}
	c.wantFrom("old")
}

func TestTheCircuitOfUDPIsNotThatOfTCP(t *testing.T) {
	ip := families()["IPv4"]
	at, service := closedPort(ip), netip.AddrPortFrom(ip, freePort())
	old := answersAnywhere(t, ip, "o")
	startServerAt(t, at, greeter('n')) // but for UDP
	split := newSplit("mx", service, old.at, map[string]candidate{"new": {at, traffic.Whole}})
	split.Service.Ports = append(split.Service.Ports, traffic.Port{Number: service.Port(), Transport: traffic.UDP})
	startRelay(t, Options{Workers: 2}, split)
	for range circuitFailures + 3 {
		speak(t, service).wantFrom("o")
	}
	if letter, err := greeting(service); letter != 'n' || err != nil {
		t.Errorf("TCP is served by %q, %v; want the candidate, which serves it", letter, err)
	}
}

// The relay's own datagrams find out, not clients'.
func TestACandidateOfUDPThatComesBackGetsItsShareAgain(t *testing.T) {
	ip := families()["IPv4"]
	at, service := closedPort(ip), netip.AddrPortFrom(ip, freePort())
	old := answersAnywhere(t, ip, "old")
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {at, traffic.Whole}}))
	startRelay(t, Options{Workers: 2}, split)
	for range circuitFailures + 1 {
		speak(t, service).wantFrom("old")
	}
	answers(t, at, "new")
	nettest.Eventually(t, "the candidate has its share again", func() bool { return speak(t, service).ask("who?") == "new" })
}

// haltedEdge fails to give datagrams, for causes that are told.
type haltedEdge struct {
	system
	cause chan syscall.Errno
	cuts  chan struct{}
}

func (e *haltedEdge) give(socket int, of *batch, first, last int) (int, syscall.Errno) {
	select {
	case cause := <-e.cause:
		return 0, cause
	default:
		return e.system.give(socket, of, first, last)
	}
}

func (e *haltedEdge) take(socket int, into *batch, first int) (int, syscall.Errno) {
	n, errno := e.system.take(socket, into, first)
	if n > 0 {
		select {
		case <-e.cuts:
			into.headers[first].header.Flags |= unix.MSG_TRUNC
		default:
		}
	}
	return n, errno
}

func TestWhatCannotBeSentOrWasCutIsDroppedAndCounted(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	e := &haltedEdge{cause: make(chan syscall.Errno, 4), cuts: make(chan struct{}, 1)}
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return e }}, ofUDP(newSplit("mx", service, old.at, nil)))
	c := speak(t, service)
	c.wantFrom("old")
	dropped := uint64(0)
	for _, cause := range []syscall.Errno{unix.ENOBUFS, unix.EAGAIN, unix.EMSGSIZE} {
		question := fmt.Sprint("?", cause)
		e.cause <- cause
		if cause == unix.EMSGSIZE { // which may have been of what was sent before
			e.cause <- cause
		}
		c.say(question)
		dropped++
		nettest.Eventually(t, "it is counted", func() bool { return r.Faults().Datagrams == dropped })
		if n := old.times(question); n != 0 {
			t.Errorf("%s: it was sent all the same", cause)
		}
		c.wantFrom("old")
	}
	e.cuts <- struct{}{}
	c.say("?cut")
	nettest.Eventually(t, "it is counted", func() bool { return r.Faults().Datagrams == dropped+1 })
	c.wantFrom("old")
	if n := old.times("?cut"); n != 0 {
		t.Error("a cut datagram was sent")
	}
	e.cause <- unix.EPERM // a firewall of this host
	c.say("?forbidden")
	nettest.Eventually(t, "it is counted", func() bool { return r.Faults().Datagrams == dropped+2 })
	c.wantFrom("old")
}
