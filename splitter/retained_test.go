package splitter

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// A copy of each is kept until the backend has answered.
func TestLargeFirstDatagramsLeaveNoMemoryBehindInTheirFlows(t *testing.T) {
	ip := families()["IPv4"]
	trial := answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, answersAnywhere(t, ip, "old").at, map[string]candidate{"new": {trial.at, traffic.Whole}}))
	split.UDPTimeout = time.Hour
	r := startRelay(t, Options{Workers: 1}, split)
	speak(t, service).wantFrom("new")
	before := heap()
	const flows, large = 400, 60_000
	for range flows {
		c := speak(t, service)
		if got := c.ask(strings.Repeat("x", large)); got != "new" {
			t.Fatalf("answered by %q, want new", got)
		}
	}
	kept := 0
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) { kept += cap(f.talk.retained) })
	})
	if most := (flows + 1) * retainedKept; kept > most {
		t.Errorf("%d bytes are kept for first datagrams that have been answered, want %d at most", kept, most)
	}
	nettest.Eventually(t, "the heap is as it was, but for a tenth of the datagrams", func() bool { return heap() < before+flows*large/10 })
	if got := r.numbers("new").Active; got != flows+1 {
		t.Errorf("%d flows are open, want %d: the test shows nothing", got, flows+1)
	}
}

// heap is what is allocated and not garbage.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
