package splitter

import (
	"bufio"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// answersLines answers each line with its letter, and says nothing before.
func answersLines(letter byte) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		defer func() { _ = c.Close() }()
		for lines := bufio.NewScanner(c); lines.Scan(); {
			_, _ = c.Write([]byte{letter})
		}
	}
}

// withFirstByte is a split all of whose flows are the candidate's, which has to
// answer them.
func withFirstByte(service, old, trial netip.AddrPort) traffic.Split {
	split := newSplit("mx", service, old, map[string]candidate{"new": {trial, traffic.Whole}})
	split.Proxy.FirstByteTimeout = 2 * time.Second // an answer comes before, also on a busy machine
	return split
}

// asks says a line and returns the letter of who answers.
func asks(t *testing.T, c *net.TCPConn) byte {
	t.Helper()
	letter := make([]byte, 1)
	if _, err := c.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(letter); err != nil {
		t.Fatal(err)
	}
	return letter[0]
}

// Of a server that waits for its client to speak nothing is known when that does
// not.
func TestClientsThatSayNothingEjectNoCandidate(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := withFirstByte(service, startServer(t, ip, answersLines('o')), startServer(t, ip, answersLines('n')))
	split.Proxy.FirstByteTimeout = 30 * time.Millisecond
	startRelay(t, Options{Workers: 2}, split)
	for range 2 * circuitFailures {
		if _, err := dial(t, service).Read(make([]byte, 1)); !isReset(err) {
			t.Fatalf("a client that says nothing got %v, want a reset", err)
		}
	}
	if got := asks(t, dial(t, service)); got != 'n' {
		t.Errorf("served by %q, want the candidate", got)
	}
}

func TestClientsThatSayNonsenseDoNotEjectACandidateThatAnswersOthers(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 1}, withFirstByte(service, startServer(t, ip, answersLines('o')), startServer(t, ip, answersLines('n'))))
	for range 2 * circuitFailures {
		if _, err := dial(t, service).Write([]byte("half a request")); err != nil {
			t.Fatal(err)
		}
	}
	nettest.Eventually(t, "the candidate has all of it", func() bool { return r.numbers("new").In == 2*circuitFailures*uint64(len("half a request")) })
	r.answersAfterAll(func() {
		c := dial(t, service)
		defer abortConn(c)
		if got := asks(t, c); got != 'n' {
			t.Fatalf("served by %q, want the candidate", got)
		}
	})
	nettest.Eventually(t, "they have had their time", func() bool { return r.openFlows() == 0 })
	if got := asks(t, dial(t, service)); got != 'n' {
		t.Errorf("afterwards served by %q, want the candidate", got)
	}
}

// answersAfterAll asks until the candidate has answered later than any of the open
// flows began: by ticks, of which one may have both.
func (r *testRelay) answersAfterAll(ask func()) {
	r.t.Helper()
	nettest.Eventually(r.t, "the candidate has answered since", func() bool {
		ask()
		after := true
		r.inspect(func(w *worker) {
			w.flows.each(func(f *flow) {
				began := f.times.first - ticks(f.choice.proxy.FirstByteTimeout)
				after = after && (f.times.first == 0 || f.target.circuit.spokeAfter(began))
			})
		})
		return after
	})
}

// Anybody may send them, in anybody's name. That the candidate answers is seen by
// a flow that is old, too: there may be few that are new.
func TestQuestionsThatNobodyAnswersDoNotEjectACandidateThatAnswersOthers(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 2}, ofUDP(withFirstByte(service, old.at, trial.at)))
	client := speak(t, service)
	client.wantFrom("new")
	for range 2 * circuitFailures {
		speak(t, service).say("?nonsense")
	}
	nettest.Eventually(t, "all have come", func() bool { return trial.times("?nonsense") == 2*circuitFailures })
	r.answersAfterAll(func() { client.wantFrom("new") })
	nettest.Eventually(t, "they have had their time", func() bool { return r.openFlows() == 1 })
	speak(t, service).wantFrom("new")
}

func TestAnAnswerCountsForThoseWhoHaveAskedBefore(t *testing.T) {
	var c circuit
	if c.spokeAfter(0) {
		t.Error("it has spoken before anybody asked")
	}
	c.spoke(100)
	c.spoke(90) // of a worker whose round began earlier
	for began, want := range map[int64]bool{50: true, 99: true, 100: false, 101: false} {
		if got := c.spokeAfter(began); got != want {
			t.Errorf("after tick %d: %t, want %t", began, got, want)
		}
	}
	var primary *circuit
	primary.spoke(1)
	if primary.spokeAfter(0) {
		t.Error("a backend without circuit has one")
	}
}
