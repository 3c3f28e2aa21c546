package splitter

import (
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

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

// The worker is held up, as by a machine that has too much to do.
func TestDatagramsThatFindNoRoomHereAreCounted(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	r := startRelay(t, Options{Workers: 1}, split)
	c := speak(t, service)
	held := make(chan struct{})
	r.workers[0].post(func() { <-held })
	const sent = 20_000 // over receiveRoom, twice of which the kernel may give
	for range sent {
		c.say("?")
	}
	close(held)
	nettest.Eventually(t, "each was relayed or is counted", func() bool { return r.numbers("old").In+r.Faults().Datagrams == sent })
	lost := r.Faults().Datagrams
	if lost == 0 {
		t.Error("all have found room: the test shows nothing")
	}
	r.apply()
	nettest.Eventually(t, "the front has gone", func() bool {
		r.End(r.OpenFlows(ofOld))
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.fronts) == 0
	})
	if got := r.Faults().Datagrams; got != lost {
		t.Errorf("%d are counted after the front has gone, %d before", got, lost)
	}
}

func TestWithoutFilesOrPortsNewFlowsOfUDPAreDroppedAndOldOnesGoOn(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 1}, ofUDP(newSplit("mx", service, old.at, nil)))
	first := speak(t, service)
	first.wantFrom("old")
	first.wantFrom("old") // it goes on: it need not make room
	most := int64(0)
	r.inspect(func(*worker) { most = r.files.most })
	r.leaveRoomFor(0)
	speak(t, service).say("?no file")
	nettest.Eventually(t, "it is counted", func() bool { return r.Refusals()["mx"][traffic.RefusedNoFiles] == 1 })
	first.wantFrom("old")
	r.inspect(func(*worker) { r.files.most = most })

	late := speak(t, service) // has a port
	if err := setLocalPorts(scarcePorts, scarcePorts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := setLocalPorts(ephemeralFirst, 65000); err != nil {
			t.Error(err)
		}
	})
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(service)) // takes the only one
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	late.say("?no port")
	nettest.Eventually(t, "it is counted", func() bool { return r.Faults().Dials == 1 })
	first.wantFrom("old")
	if got := r.numbers("old"); got.Failed != 0 || got.Flows != 1 {
		t.Errorf("the backend has %+v, want one flow and no failure", got)
	}
	if err := setLocalPorts(ephemeralFirst, 65000); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, "ports are looked for again", func() bool {
		again := true
		r.inspect(func(w *worker) { again = int64(time.Since(w.born)/time.Millisecond) > w.portless })
		return again
	})
	late.wantFrom("old")
	if n := old.times("?no file") + old.times("?no port"); n != 0 {
		t.Errorf("%d datagrams have come through", n)
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
