package netfilter

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

func down(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func (lab *splitLab) setBackends(splits ...traffic.Split) {
	lab.t.Helper()
	lab.router.Do(func() error { return lab.kernel.SetBackends(lab.t.Context(), splits...) })
}

// answersBoth fails unless these servers answer over IPv4 and IPv6.
func (lab *splitLab) answersBoth(what string, v4, v6 byte) {
	lab.t.Helper()
	for address, want := range map[string]byte{service25v4: v4, service25v6: v6} {
		for range 10 {
			if _, got := lab.dial(address); got != want {
				lab.t.Fatalf("%s: %s is answered by %c, want %c", what, address, got, want)
			}
		}
	}
}

func TestALocalCandidateThatIsDownGivesItsShareToThePrimaryPerFamily(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := remoteSplit(1, 0)
	s.Return = traffic.ReturnGateway
	s.Candidates = []traffic.Backend{{Name: "new", Local: true, Weight: traffic.Whole}}
	lab.apply(s)
	lab.answersBoth("both up", fromLocal, fromLocal)
	s.Candidates[0].Down = down("2001:db8::25")
	lab.setBackends(s)
	lab.answersBoth("IPv6 down", fromLocal, fromOld)
	if got := lab.read()["mx"].Down["new"]; got != (Families{IPv6: true}) {
		t.Errorf("the kernel is read as withdrawn in %+v, want IPv6", got)
	}
	if lines := lab.differences(s); len(lines) > 0 {
		t.Errorf("differences: %q", lines)
	}
	s.Candidates[0].Down = nil
	lab.setBackends(s)
	lab.answersBoth("both up again", fromLocal, fromLocal)
}

func TestADeadAddressOfThePrimaryIsLeftOutWhileAnotherLives(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := remoteSplit(1, 0)
	s.Return = traffic.ReturnGateway
	s.Primary.Addresses = addresses("10.0.1.11", "10.0.2.12", "2001:db8:1::11")
	lab.apply(s)
	s.Primary.Down = down("10.0.1.11")
	lab.setBackends(s)
	lab.answersBoth("one is down", fromNew, fromOld)
	s.Primary.Down = down("10.0.1.11", "10.0.2.12", "2001:db8:1::11")
	lab.setBackends(s)
	seen := map[byte]bool{}
	for !seen[fromOld] || !seen[fromNew] {
		_, letter := lab.dial(service25v4)
		seen[letter] = true
	}
	lab.dial(service25v6)
}

// A health check of the local primary must find the primary, whatever the
// weights send elsewhere.
func TestChecksOfThisHostAreNotSplit(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := localSplit(1, traffic.Whole)
	s.LocalClients, s.Return = true, traffic.ReturnMasquerade
	lab.apply(s)
	mark := lab.kernel.options.Settings.CheckMark()
	for name, tt := range map[string]struct {
		mark uint32
		want byte
	}{"a client here": {0, fromNew}, "with another mark": {1, fromNew}, "a check": {mark, fromLocal}, "a check with a foreign bit": {mark | 1, fromLocal}} {
		if letter := lab.dialHere(tt.mark); letter != tt.want {
			t.Errorf("%s is answered by %c, want %c", name, letter, tt.want)
		}
	}
}

// A check of a local primary is no client: what it does is no evidence of the
// primary, whether local clients are split or not.
func TestChecksOfThisHostAreNotThePrimarysFlows(t *testing.T) {
	for name, local := range map[string]bool{"local clients are not split": false, "local clients are split": true} {
		t.Run(name, func(t *testing.T) {
			lab := newSplitLab(t)
			lab.serveAll()
			s := localSplit(1, 0)
			s.LocalClients = local
			lab.apply(s)
			lab.follow(s)
			lab.eventually("a look was taken", func() bool { return lab.kernel.lookup.Load() != nil })
			lab.dialHere(lab.kernel.options.Settings.CheckMark())
			c, _ := lab.dial(service25v4) // news and looks come in order: behind the check
			lab.eventually("the client's flow is seen", func() bool { return lab.evidence(s, "old").Flows > 0 })
			_ = c.Close()
			lab.eventually("the client's flow has ended", func() bool { return lab.evidence(s, "old").Ended > 0 })
			if e := lab.evidence(s, "old"); e.Flows != 1 || e.Ended != 1 || e.Resets != 0 || e.Refused != 0 {
				t.Errorf("with one client and one check the primary had %+v, want one flow", e)
			}
		})
	}
}

// dialHere connects from the router itself to the service with a packet mark,
// and returns who answered. It ends as a check does: by a reset.
func (lab *splitLab) dialHere(mark uint32) (letter byte) {
	lab.t.Helper()
	lab.router.Do(func() error {
		d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
			return err
		}}
		c, err := d.DialContext(lab.t.Context(), "tcp", service25v4)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		answer := make([]byte, 1)
		_, err = c.Read(answer)
		letter = answer[0]
		return errors.Join(err, c.(*net.TCPConn).SetLinger(0))
	})
	return letter
}
