package e2e

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
)

// The candidate is behind a link that takes less than the others: a tunnel, say.
func TestACandidateOfUDPBehindASmallerLinkIsNotTakenForOneThatRefuses(t *testing.T) {
	l := newUDPLab(t)
	far := nettest.New(t, "far")
	nettest.Link(t, far, "eth0", []string{"10.3.0.2/24", "fd03::2/64"}, l.host, "eth1", []string{"10.3.0.1/24", "fd03::1/64"})
	far.Route("0.0.0.0/0", "10.3.0.1")
	far.Route("::/0", "fd03::1")
	far.Run("ip", "link", "set", "dev", "eth0", "mtu", "1300")
	l.host.Run("ip", "link", "set", "dev", "eth1", "mtu", "1300")
	l.host.Sysctl("net/ipv4/ip_forward", "1")
	l.host.Sysctl("net/ipv6/conf/all/forwarding", "1")
	l.router.Route("10.3.0.0/24", host4)
	l.router.Route("fd03::/64", host6)
	l.answer(far, "10.3.0.2:25", "far")
	l.answer(far, "[fd03::2]:25", "far")
	l.configure(strings.NewReplacer("10.2.0.2:25", "10.3.0.2:25", "[fd02::2]:25", "[fd03::2]:25").Replace(udpConfig))
	l.start()
	l.ok("set", "mx", "100%")
	for _, at := range asked[1:3] {
		r := l.resolver(at)
		if got := r.insist(1400); got != "far" {
			t.Errorf("%s: a large question is answered by %q, want the candidate", at, got)
		}
		if got := r.insist(1450); got != "far" {
			t.Errorf("%s: the next one is answered by %q, want the candidate", at, got)
		}
	}
	if b := l.status().Backends[1]; *b.FlowsTotal != 2 || *b.ConnectFailed != 0 {
		t.Errorf("the candidate has %d flows and %d that failed, want 2 and none", *b.FlowsTotal, *b.ConnectFailed)
	}
}

// insist asks something large until it is answered, as clients of name servers do,
// and says by whom.
func (r *resolver) insist(size int) string {
	r.t.Helper()
	r.id++
	question := append([]byte{0, r.id}, bytes.Repeat([]byte{'?'}, size-2)...)
	answer := make([]byte, 100)
	for range 300 {
		if _, err := r.conn.Write(question); err != nil {
			r.t.Fatal(err)
		}
		_ = r.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		n, err := r.conn.Read(answer)
		for err == nil && (n < 2 || answer[1] != r.id) { // to a question before
			n, err = r.conn.Read(answer)
		}
		if err == nil {
			return string(answer[2:n])
		}
	}
	r.t.Fatalf("%s: no answer to a question of %d bytes", r.conn.RemoteAddr(), size)
	return ""
}

// drained is flows of UDP of the candidate.
func (l *lab) drained(many int) []*resolver {
	l.t.Helper()
	l.start()
	l.ok("set", "mx", "100%")
	var all []*resolver
	for i := range many {
		r := l.resolver(asked[i%len(asked)])
		if got := r.who(); got != "new" {
			l.t.Fatalf("%s is answered by %q, want new", r.conn.RemoteAddr(), got)
		}
		all = append(all, r)
	}
	return all
}

func TestADrainEndsFlowsOfUDPBitByBit(t *testing.T) {
	l := newUDPLab(t)
	all := l.drained(12)
	l.ok("drain", "mx", "new", "--rate", "4/s")
	l.eventually("some flows are ended and some are not", func() bool {
		b := l.status().Backends[1]
		return *b.FlowsActive > 0 && *b.FlowsActive < 12 && b.Drain.Ended == 12-*b.FlowsActive
	})
	l.ok("wait", "mx", "--for=drained", "--timeout", "20s")
	for _, r := range all {
		if got := r.who(); got != "old" {
			t.Errorf("after the drain %q answers, want old", got)
		}
	}
}

func TestADrainWithATimeEndsFlowsOfUDPThatAreLeftThen(t *testing.T) {
	l := newUDPLab(t)
	all := l.drained(5)
	l.ok("drain", "mx", "new", "--kill=3s")
	d := l.status().Backends[1].Drain
	for _, r := range all {
		if got := r.who(); got != "new" && time.Now().Before(*d.KillAt) {
			t.Errorf("before its time %q answers, want new", got)
		}
	}
	l.eventually("what is left has been ended", func() bool {
		b := l.status().Backends[1]
		return *b.FlowsActive == 0 && b.Drain.Ended == 5
	})
	if time.Now().Before(*d.KillAt) {
		t.Error("they were ended before the time")
	}
	for _, r := range all {
		if got := r.who(); got != "old" {
			t.Errorf("after its time %q answers, want old", got)
		}
	}
}
