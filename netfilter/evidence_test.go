package netfilter

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// follow makes the Kernel follow the flows of a split until the test ends.
func (lab *splitLab) follow(s traffic.Split) {
	lab.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	splits := func() []traffic.Split { return []traffic.Split{s} }
	go func() { done <- lab.router.NS.Do(func() error { return lab.kernel.Follow(ctx, splits) }) }()
	go func() { done <- lab.router.NS.Do(func() error { return lab.kernel.Listen(ctx) }) }()
	lab.t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				lab.t.Errorf("following flows ends with %v", err)
			}
		}
	})
}

// eventually waits for a condition.
func (lab *splitLab) eventually(what string, condition func() bool) {
	lab.t.Helper()
	nettest.Eventually(lab.t, what, condition)
}

// evidence is what is known of a backend, all generations together.
func (lab *splitLab) evidence(s traffic.Split, backend string) traffic.Evidence {
	lab.t.Helper()
	var sum traffic.Evidence
	lab.router.Do(func() error {
		all, err := lab.kernel.Evidence(lab.t.Context(), []traffic.Split{s})
		for _, e := range all {
			if e.Backend != backend {
				continue
			}
			sum.Flows += e.Flows
			sum.Active += e.Active
			sum.HalfOpen += e.HalfOpen
			sum.Ended += e.Ended
			sum.Refused += e.Refused
			sum.Unanswered += e.Unanswered
			sum.Resets += e.Resets
			sum.Lifetimes.Merge(e.Lifetimes)
			if e.BytesIn != nil {
				sum.BytesIn, sum.BytesOut = new(*e.BytesIn), new(*e.BytesOut)
			}
		}
		return err
	})
	return sum
}

func TestEvidenceTellsHowFlowsEnd(t *testing.T) {
	lab := newSplitLab(t)
	lab.serve(lab.new, fromNew, ":25")
	s := remoteSplit(1, traffic.Whole)
	s.Service.Ports = append(s.Service.Ports, traffic.Port{Number: 26, Transport: traffic.TCP})
	lab.apply(s)
	lab.follow(s)
	lab.eventually("a look was taken", func() bool { return lab.kernel.lookup.Load() != nil })
	lab.eventually("news are heard", func() bool { // the first connections may come before
		_, _ = lab.dialRefused("192.0.2.25:26")
		return lab.evidence(s, "new").Refused > 0
	})
	base := lab.evidence(s, "new")
	if base.Refused != base.Ended || base.Active != 0 {
		t.Errorf("after refusals alone: %+v", base)
	}
	orderly, _ := lab.dial(service25v4)
	rude, _ := lab.dial(service25v6)
	lab.eventually("both are open", func() bool { return lab.evidence(s, "new").Active == 2 })
	_ = orderly.Close()
	_ = rude.(*net.TCPConn).SetLinger(0)
	_ = rude.Close()
	lab.eventually("both have ended, one of them by a reset", func() bool {
		e := lab.evidence(s, "new")
		return e.Active == 0 && e.Ended == base.Ended+2 && e.Resets == 1 && e.Unanswered == 0
	})
	if e := lab.evidence(s, "new"); e.Lifetimes.Total() < 2 {
		t.Errorf("%d lifetimes are known, want those of the two connections at least", e.Lifetimes.Total())
	}
	if e := lab.evidence(s, "old"); e.Flows != 0 {
		t.Errorf("the primary had %d flows, want none", e.Flows)
	}
}

// dialRefused connects where nobody listens.
func (lab *splitLab) dialRefused(address string) (c net.Conn, err error) {
	lab.client.Do(func() error {
		c, err = net.DialTimeout("tcp", address, 10*time.Second)
		if !errors.Is(err, unix.ECONNREFUSED) {
			lab.t.Errorf("dial %s: %v, want a refusal", address, err)
		}
		return nil
	})
	return c, err
}

func TestAnAttemptWithoutAReplyIsHalfOpenAndThenUnanswered(t *testing.T) {
	lab := newSplitLab(t)
	s := remoteSplit(1, traffic.Whole)
	lab.apply(s)
	lab.loseNewHost()
	lab.follow(s)
	fd := lab.attempt(service25v4)
	defer func() { _ = unix.Close(fd) }()
	lab.eventually("the attempt is half open", func() bool {
		e := lab.evidence(s, "new")
		return e.Active == 1 && e.HalfOpen == 1
	})
	lab.router.Do(func() error { // as its timeout would
		conn, err := conntrack.Dial(nil)
		if err == nil {
			err = conn.Flush()
		}
		return errors.Join(err, conn.Close())
	})
	lab.eventually("it ended without an answer", func() bool {
		e := lab.evidence(s, "new")
		return e.Unanswered >= 1 && e.Refused == 0 && e.Resets == 0
	})
}

// loseNewHost makes the router send what is for the new host to a link-layer
// address that is nobody's.
func (lab *splitLab) loseNewHost() {
	lab.t.Helper()
	lab.router.Do(func() error {
		link, err := netlink.LinkByName("eth2")
		if err != nil {
			return err
		}
		for _, ip := range []string{"10.0.2.12", "2001:db8:2::12"} {
			neighbour := &netlink.Neigh{
				LinkIndex: link.Attrs().Index, IP: net.ParseIP(ip), State: netlink.NUD_PERMANENT,
				HardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0, 0x99},
			}
			if err := netlink.NeighSet(neighbour); err != nil {
				return err
			}
		}
		return nil
	})
}

// attempt begins to connect and does not wait.
func (lab *splitLab) attempt(address string) (fd int) {
	lab.t.Helper()
	lab.client.Do(func() (err error) { fd, err = begin(address, 100); return err })
	return fd
}

func TestBytesAreKnownWhereTheKernelCountsThem(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := remoteSplit(1, traffic.Whole)
	lab.apply(s)
	lab.dial(service25v4)
	if e := lab.evidence(s, "new"); e.Active != 1 || e.BytesIn != nil || e.BytesOut != nil {
		t.Errorf("without nf_conntrack_acct: %+v, want bytes to be unknown", e)
	}
	lab.router.Sysctl("net/netfilter/nf_conntrack_acct", "1")
	c, _ := lab.dial(service25v4)
	payload := make([]byte, 100_000)
	if _, err := c.Write(payload[:1]); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = c.Write(payload) }()
	if _, err := io.ReadFull(c, make([]byte, len(payload))); err != nil {
		t.Fatal(err)
	}
	during := lab.evidence(s, "new")
	if during.BytesIn == nil || *during.BytesIn < 100_000 || *during.BytesOut < 100_000 {
		t.Fatalf("bytes of an open flow: %+v, want 100,000 and more both ways", during)
	}
	_ = c.Close()
	lab.eventually("the flow has ended", func() bool { return lab.evidence(s, "new").Ended >= 1 })
	if after := lab.evidence(s, "new"); *after.BytesIn < *during.BytesIn || *after.BytesOut < *during.BytesOut {
		t.Errorf("bytes shrink: %d in and %d out after %d and %d", *after.BytesIn, *after.BytesOut, *during.BytesIn, *during.BytesOut)
	}
}

func TestFlowsAreToldApartByGeneration(t *testing.T) {
	lab := newSplitLab(t)
	s := remoteSplit(7, 500_000)
	lab.apply(s)
	made := map[traffic.Generation]int{7: 5, 6: 3}
	lab.router.Do(func() error {
		next := uint16(10_000)
		for g, n := range made {
			for range n {
				next++
				if err := makeEntry(next, labSettings.generationMark(g)|labSettings.mark(classRemote)); err != nil {
					return err
				}
			}
		}
		return makeEntry(9_999, labSettings.mark(classRemote))
	})
	got := map[traffic.Generation]uint64{}
	lab.router.Do(func() error {
		all, err := lab.kernel.Evidence(t.Context(), []traffic.Split{s})
		for _, e := range all {
			got[e.Generation] += e.Active
		}
		return err
	})
	if diff := cmp.Diff(map[traffic.Generation]uint64{7: 5, 6: 3, 0: 1}, got); diff != "" {
		t.Errorf("open flows by generation (-want +got):\n%s", diff)
	}
}

// makeEntry makes an established flow to the new host.
func makeEntry(port uint16, mark uint32) error {
	conn, err := conntrack.Dial(nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return conn.Create(entryTo(netip.MustParseAddr("192.0.2.100"), port, mark))
}

func entryTo(client netip.Addr, port uint16, mark uint32) conntrack.Flow {
	f := conntrack.NewFlow(unix.IPPROTO_TCP, conntrack.StatusConfirmed|conntrack.StatusAssured|conntrack.StatusSeenReply, client, netip.MustParseAddr("192.0.2.25"), port, 25, 3600, mark)
	f.TupleReply.IP.SourceAddress = netip.MustParseAddr("10.0.2.12")
	f.ProtoInfo.TCP = &conntrack.ProtoInfoTCP{State: 3}
	return f
}

// crowd makes n established flows to the new host in a namespace of its own,
// and a Kernel there that has no rules.
func crowd(tb testing.TB, n int) (*nettest.NS, *Kernel, traffic.Split) {
	tb.Helper()
	ns := nettest.New(tb, "crowd")
	s := remoteSplit(3, 500_000)
	k := &Kernel{options: Options{Settings: labSettings, Now: time.Now}, conntracks: newConntracks(), dial: openConntrackSocket, tracker: newTracker(), lookAgain: make(chan struct{}, 1)}
	tb.Cleanup(k.conntracks.end)
	ns.Do(func() error {
		conn, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		for i := range n {
			client := netip.AddrFrom4([4]byte{198, 18, byte(i >> 14), byte(i >> 6)})
			mark := labSettings.generationMark(traffic.Generation(1+i%3)) | labSettings.mark(classRemote)
			if err := conn.Create(entryTo(client, uint16(1024+i&63), mark)); err != nil {
				return err
			}
		}
		return nil
	})
	return ns, k, s
}

// cpu is the processor time that this thread has used, in the kernel too.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// A look at many flows is cheap in time, and makes next to no garbage. It is
// measured in the processor's time, against what the library takes to list the
// same entries.
func BenchmarkLookAtAHundredThousandFlows(b *testing.B) {
	const n = 100_000
	ns, k, s := crowd(b, n)
	ns.Do(func() error {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if err := k.takeLook([]traffic.Split{s}); err != nil {
			return err
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportAllocs()
		b.ResetTimer()
		began := cpu(b)
		for range b.N {
			k.tracker.took = 0 // a look that took long is good for a while
			if err := k.takeLook([]traffic.Split{s}); err != nil {
				return err
			}
		}
		b.StopTimer()
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB-held")
		b.ReportMetric(float64((cpu(b)-began).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		conn, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		began = cpu(b)
		if _, err := conn.Dump(nil); err != nil {
			return err
		}
		b.ReportMetric(float64((cpu(b)-began).Microseconds())/1000, "library-cpu-ms")
		var open uint64
		for _, e := range k.tracker.evidence() {
			open += e.Active
		}
		if open != n {
			b.Errorf("%d open flows are seen, want %d", open, n)
		}
		return nil
	})
}
