package netfilter

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

func (lab *splitLab) openFlows(which Which) (flows []OpenFlow) {
	lab.t.Helper()
	lab.router.Do(func() (err error) { flows, err = lab.kernel.OpenFlows(lab.t.Context(), which); return err })
	return flows
}

func (lab *splitLab) endFlows(flows []OpenFlow) (ended int) {
	lab.t.Helper()
	lab.router.Do(func() (err error) { ended, err = lab.kernel.End(lab.t.Context(), flows); return err })
	return ended
}

func (lab *splitLab) free(s traffic.Split, backend string, servers ...netip.Addr) (freed int) {
	lab.t.Helper()
	from := map[traffic.BackendKey][]netip.Addr{{Split: s.Name, Backend: backend}: servers}
	lab.router.Do(func() (err error) {
		freed, err = lab.kernel.Free(lab.t.Context(), []traffic.Split{s}, from)
		return err
	})
	return freed
}

func TestFlowsThatAreEndedAreResetAtTheirNextPacketAndNoOthers(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.apply(remoteSplit(1, 0))
	toOld, letter := lab.dial(service25v4)
	if letter != fromOld {
		t.Fatalf("%c answers", letter)
	}
	s := remoteSplit(2, traffic.Whole)
	lab.apply(s)
	var toNew []net.Conn
	for _, address := range []string{service25v4, service25v6, service25v4} {
		c, _ := lab.dial(address)
		toNew = append(toNew, c)
	}
	direct, _ := lab.dial("10.0.2.12:25") // past the split, through the same router to the same server
	s = remoteSplit(3, 0)
	lab.apply(s)
	flows := lab.openFlows(Which{Splits: []traffic.Split{s}, Backend: "new"})
	if len(flows) != 3 {
		t.Fatalf("%d open flows of the candidate, want 3: %+v", len(flows), flows)
	}
	if ended := lab.endFlows(flows); ended != 3 {
		t.Errorf("%d flows were ended, want 3", ended)
	}
	if ended := lab.endFlows(flows); ended != 0 {
		t.Errorf("%d flows were ended a second time, want none", ended)
	}
	for i, c := range toNew {
		if err := echoes(c); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			t.Errorf("connection %d: %v, want a reset", i, err)
		}
	}
	for name, c := range map[string]net.Conn{"the primary's": toOld, "a direct one": direct} {
		if err := echoes(c); err != nil {
			t.Errorf("%s connection: %v", name, err)
		}
	}
}

func TestAnOpenFlowTellsWhoIsServedByWhom(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := remoteSplit(1, traffic.Whole)
	lab.apply(s)
	c, _ := lab.dial(service25v4)
	client := netip.MustParseAddrPort(c.LocalAddr().String())
	want := OpenFlow{
		BackendKey: traffic.BackendKey{Split: "mx", Backend: "new"}, Transport: traffic.TCP,
		Client: client, Service: netip.MustParseAddrPort(service25v4), Server: netip.MustParseAddrPort("10.0.2.12:25"),
	}
	for name, tc := range map[string]struct {
		clients netip.Prefix
		want    []OpenFlow
	}{
		"all":     {want: []OpenFlow{want}},
		"his":     {netip.PrefixFrom(client.Addr(), 32), []OpenFlow{want}},
		"another": {netip.MustParsePrefix("198.51.100.0/24"), nil},
	} {
		got := lab.openFlows(Which{Splits: []traffic.Split{s}, Clients: tc.clients})
		for i := range got {
			got[i].key, got[i].Generation = entryKey{}, 0
		}
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(OpenFlow{}, entryKey{}, tuple{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A client whose SYNs go to a backend that is dead connects to the primary by
// its next SYN once the attempts are freed.
func TestAnAttemptThatIsFreedGoesElsewhereByItsNextSyn(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := remoteSplit(1, traffic.Whole)
	lab.apply(s)
	established, _ := lab.dial(service25v4)
	lab.loseNewHost()
	fds := []int{lab.attempt(service25v4), lab.attempt(service25v6)}
	lab.eventually("both attempts wait", func() bool {
		return len(lab.openFlows(Which{Splits: []traffic.Split{s}, HalfOpen: true})) == 2
	})
	down := remoteSplit(2, 0)
	lab.apply(down)
	if freed := lab.free(down, "old"); freed != 0 {
		t.Errorf("%d attempts to the primary were freed, want none", freed)
	}
	if freed := lab.free(down, "new", netip.MustParseAddr("10.0.2.99")); freed != 0 {
		t.Errorf("%d attempts to another address were freed, want none", freed)
	}
	if freed := lab.free(down, "new"); freed != 2 {
		t.Errorf("%d attempts were freed, want 2", freed)
	}
	for _, fd := range fds {
		file := os.NewFile(uintptr(fd), "attempt")
		letter := make([]byte, 1)
		_ = file.SetReadDeadline(time.Now().Add(15 * time.Second))
		if _, err := io.ReadFull(file, letter); err != nil || letter[0] != fromOld {
			t.Errorf("after the next SYN %q answers, %v; want %c", letter, err, fromOld)
		}
		_ = file.Close()
	}
	if n := len(lab.openFlows(Which{Splits: []traffic.Split{down}, Backend: "new"})); n != 1 {
		t.Errorf("the candidate has %d open flows, want the established one", n)
	}
	_ = established.Close()
}

func TestAUDPClientIsDrawnAnewWhenItsFlowIsEnded(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveUDP(lab.old, fromOld, "10.0.1.11:53")
	lab.serveUDP(lab.new, fromNew, "10.0.2.12:53")
	udp := func(g traffic.Generation, w traffic.Weight) traffic.Split {
		s := remoteSplit(g, w)
		s.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.UDP}}
		return s
	}
	lab.apply(udp(1, traffic.Whole))
	var c net.Conn
	lab.client.Do(func() (err error) { c, err = net.Dial("udp", "192.0.2.25:53"); return err })
	defer func() { _ = c.Close() }()
	ask := func() byte {
		answer := make([]byte, 1)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write([]byte{'?'}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		return answer[0]
	}
	if got := ask(); got != fromNew {
		t.Fatalf("%c answers, want %c", got, fromNew)
	}
	s := udp(2, 0)
	lab.apply(s)
	if got := ask(); got != fromNew {
		t.Errorf("%c answers an open flow after the change, want %c", got, fromNew)
	}
	if n := lab.endFlows(lab.openFlows(Which{Splits: []traffic.Split{s}, Backend: "new"})); n != 1 {
		t.Errorf("%d flows were ended, want 1", n)
	}
	if got := ask(); got != fromOld {
		t.Errorf("%c answers after the flow was ended, want %c", got, fromOld)
	}
	t.Run("of a server that is dead", func(t *testing.T) {
		dead := netip.MustParseAddr("10.0.1.11")
		if n := lab.free(s, "old"); n != 0 {
			t.Errorf("%d answered flows were freed of a backend that is shut, want none", n)
		}
		if n := lab.free(s, "old", netip.MustParseAddr("10.0.1.99")); n != 0 {
			t.Errorf("%d flows of another server were freed, want none", n)
		}
		lab.apply(udp(3, traffic.Whole))
		if n := lab.free(s, "old", dead); n != 1 {
			t.Errorf("%d flows were freed, want 1", n)
		}
		if got := ask(); got != fromNew {
			t.Errorf("%c answers after that, want %c", got, fromNew)
		}
	})
}
