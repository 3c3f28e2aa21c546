package splitter

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// Those of proxy mode would be refused by their own limit; those of kernel mode would
// have been served by the kernel, had they not been drawn for the sample.
func TestClientsOfModeProxyDoNotUseUpWhatTheKernelsFlowsNeed(t *testing.T) {
	ip := families()["IPv4"]
	lab := newInletLab(t, ip, startServer(t, ip, echo), func(s *traffic.Split, o *Options) {
		s.Sample, o.Workers = traffic.Whole, 1
	})
	service := netip.AddrPortFrom(ip, freePort())
	lab.apply(newSplit("web", service, startServer(t, ip, echo), nil))
	lab.leaveRoomFor(2 * keptShare * filesOfFlow) // of which two flows are kept
	for i := range 2*keptShare - 2 {
		if full := lab.inlet().Full; full != (i > 2*keptShare*fullShare/fullOf) {
			t.Errorf("with %d flows of %d, full is %t", i, 2*keptShare, full)
		}
		exchange(t, dial(t, service), "hello")
	}
	refused := dial(t, service)
	nettest.Eventually(t, "the relay has no room for another one of mode proxy", func() bool {
		return lab.Faults().Accepts > 0
	})
	for range 2 {
		c := dialFrom(t, aClient(t, "IPv4"), lab.service)
		if err := c.SetDeadline(time.Now().Add(testPatience)); err != nil {
			t.Fatal(err)
		}
		exchange(t, c, "hello")
	}
	if in := lab.inlet(); in.Short != 0 || in.Trouble != 0 || !in.Full {
		t.Errorf("the inlet is %+v, want it full, and nobody had to wait", in)
	}
	awaitReset(t, refused)
	waits := dialFrom(t, aClient(t, "IPv4"), lab.service)
	nettest.Eventually(t, "the inlet says that it lacks room", func() bool { return lab.inlet().Short > 0 })
	awaitReset(t, waits)
}

// Where nothing is sampled, nothing is kept.
func TestFilesAreKeptForTheKernelsFlowsWhileThereMayBeSomeAlone(t *testing.T) {
	ip := families()["IPv4"]
	r := startRelay(t, Options{LegMark: legMark})
	split := kernelSplit("mx", netip.AddrPortFrom(ip, freePort()), closedPort(ip))
	wantKept := func(when string, want bool) {
		t.Helper()
		f := &r.files
		f.most, f.limit, f.lack = 80, 1000, unix.EMFILE
		if short := f.short(71, false); short != want {
			t.Errorf("%s: with 71 of 80 files proxy mode is short: %t", when, short)
		}
		if f.short(71, true) {
			t.Errorf("%s: the kernel's flows are short with 71 of 80 files", when)
		}
	}
	r.openInlet(split)
	wantKept("of an inlet that gets nothing", false)
	split.Sample = 1
	r.openInlet(split)
	wantKept("of one that is sampled", true)
	split.Sample = 0
	r.openInlet(split)
	wantKept("of one whose sample rests", false)
	split.Sample = 1
	r.openInlet(split)
	r.CloseInlet("mx")
	wantKept("of one that is closed", false)
}
