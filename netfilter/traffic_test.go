package netfilter

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestADefinitionChangedUnderLoadLosesNoConnection(t *testing.T) {
	lab := newSplitLab(t)
	lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	lab.serveAll()
	otherPort := remoteSplit(0, 500_000)
	otherPort.Candidates[0].Addresses = addresses("10.0.2.12:2525", "[2001:db8:2::12]:2525")
	swapped := remoteSplit(0, 500_000)
	swapped.Primary, swapped.Candidates[0] = swapped.Candidates[0], swapped.Primary
	swapped.Candidates[0].Weight = 250_000
	masquerades := remoteSplit(0, 500_000)
	masquerades.Return = traffic.ReturnMasquerade
	wider := remoteSplit(0, 0)
	wider.Service.Ports = append(wider.Service.Ports, traffic.Port{Number: 26, Transport: traffic.TCP})
	definitions := []traffic.Split{remoteSplit(0, 500_000), otherPort, swapped, masquerades, wider}
	lab.apply(definitions[0])
	stop, done := make(chan struct{}), make(chan answers)
	go func() { done <- lab.load(0, stop, service25v4, service25v6) }()
	for i := range 150 {
		s := definitions[i%len(definitions)]
		s.Generation = traffic.Generation(i)
		lab.apply(s)
		lab.clock.advance(retireAfter / 10)
	}
	close(stop)
	got := <-done
	if len(got.failed) > 0 || got.by[fromLocal] > 0 || got.by[fromOld] == 0 || got.by[fromNew] == 0 {
		t.Errorf("answers: %v", got)
	}
	t.Logf("connections: %d", got.by[fromOld]+got.by[fromNew])
}

// serverSees returns the address of the client as the new host's server sees
// it.
func (lab *splitLab) serverSees(listen, dial string) netip.Addr {
	lab.t.Helper()
	var l net.Listener
	lab.new.Do(func() (err error) { l, err = net.Listen("tcp", listen); return err })
	defer func() { _ = l.Close() }()
	seen := make(chan netip.Addr, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(seen)
			return
		}
		_, _ = c.Write([]byte{fromNew})
		seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		_ = c.Close()
	}()
	lab.dial(dial)
	return <-seen
}

func TestReturnDecidesWhichClientTheNewHostSees(t *testing.T) {
	lab := newSplitLab(t)
	for _, tc := range []struct {
		way    traffic.Return
		v4, v6 string
	}{
		{traffic.ReturnGateway, "192.0.2.100/30", "2001:db8::100/126"},
		{traffic.ReturnPolicy, "192.0.2.100/30", "2001:db8::100/126"},
		{traffic.ReturnMasquerade, "10.0.2.1/32", "2001:db8:2::1/128"},
	} {
		t.Run(string(tc.way), func(t *testing.T) {
			s := localSplit(1, traffic.Whole)
			s.Return = tc.way
			s.Candidates[0].Addresses = addresses("10.0.2.12:2526", "[2001:db8:2::12]:2526")
			lab.apply(s)
			if got := lab.serverSees(":2526", service25v4); !netip.MustParsePrefix(tc.v4).Contains(got) {
				t.Errorf("by IPv4 the server sees %s, want %s", got, tc.v4)
			}
			if got := lab.serverSees(":2526", service25v6); !netip.MustParsePrefix(tc.v6).Contains(got) {
				t.Errorf("by IPv6 the server sees %s, want %s", got, tc.v6)
			}
		})
	}
}

func TestAPrimaryThatIsTheServiceItselfIsLeftAlone(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := localSplit(1, 500_000)
	s.Primary = traffic.Backend{Name: "old", Addresses: addresses("192.0.2.25", "2001:db8::25")}
	lab.apply(s)
	got := lab.load(400, nil, service25v4, service25v6)
	if len(got.failed) > 0 || !plausible(got.by[fromNew], 400, 500_000, unseededLooks) || got.by[fromLocal]+got.by[fromNew] != 400 {
		t.Errorf("answers: %v", got)
	}
}

func TestABackendsOwnFlowsAreNeverSplit(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.apply(localSplit(1, traffic.Whole))
	lab.new.Do(func() error {
		for _, address := range []string{service25v4, service25v6} {
			c, letter, err := dialOnce(address)
			if err != nil {
				return err
			}
			_ = c.Close()
			if letter != fromLocal {
				t.Errorf("%s: %c answers the candidate's own host", address, letter)
			}
		}
		return nil
	})
}

func TestOpenFlowsAreCountedByBackend(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.apply(remoteSplit(1, 0))
	var open []net.Conn
	dial := func(n int, s traffic.Split, targets ...string) {
		lab.apply(s)
		for i := range n {
			c, _ := lab.dial(targets[i%len(targets)])
			open = append(open, c)
		}
	}
	dial(3, remoteSplit(1, 0), service25v4, service25v6)
	dial(2, remoteSplit(2, traffic.Whole), service25v4, service25v6)
	active := func() map[string][2]uint64 {
		counts := map[string][2]uint64{}
		for name, c := range lab.counts(remoteSplit(2, 0)) {
			if c.BytesIn != nil || c.BytesOut != nil {
				t.Error("the kernel plane claims to know bytes, which nobody counts")
			}
			counts[name] = [2]uint64{c.Flows, *c.Active}
		}
		return counts
	}
	if diff := cmp.Diff(map[string][2]uint64{"old": {3, 3}, "new": {2, 2}}, active()); diff != "" {
		t.Errorf("flows and open flows (-want +got):\n%s", diff)
	}
	for _, c := range open {
		_ = c.Close()
	}
	nettest.Eventually(t, "all flows have ended", func() bool {
		return cmp.Equal(map[string][2]uint64{"old": {3, 0}, "new": {2, 0}}, active())
	}, func() any { return active() })
	local := localSplit(3, 0)
	lab.apply(local)
	lab.dial(service25v4)
	if got := *lab.counts(local)["old"].Active; got != 1 {
		t.Errorf("%d open flows to this host, want 1", got)
	}
}

func TestRunRetiresWhatOldWeightsLeftBehind(t *testing.T) {
	lab := newSplitLab(t)
	lab.apply(localSplit(1, 1))
	for i := range 20 {
		lab.setWeights(localSplit(traffic.Generation(i+2), traffic.Weight(i+2)))
	}
	if n := len(lab.versions()); n != 21 {
		t.Errorf("%d versions before Run, want 21", n)
	}
	lab.clock.advance(2 * retireAfter)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- lab.kernel.Run(ctx) }()
	nettest.Eventually(t, "one version is left", func() bool { return len(lab.versions()) == 1 }, func() any { return lab.versions() })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run ends with %v", err)
	}
	if lines := lab.differences(localSplit(21, 21)); len(lines) > 0 {
		t.Errorf("differences: %q", lines)
	}
}

// manySplits are n services on ports of two addresses.
func manySplits(n int, weight traffic.Weight) []traffic.Split {
	splits := make([]traffic.Split, n)
	for i := range n {
		s := remoteSplit(1, weight)
		s.Name = "service-" + strconv.Itoa(i)
		s.Service.Ports = []traffic.Port{{Number: uint16(10_000 + i), Transport: traffic.TCP}}
		splits[i] = s
	}
	return splits
}

func TestTenThousandSplitsLoad(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	splits := append(manySplits(load(10_000), 50_000), remoteSplit(1, 500_000))
	started := time.Now()
	lab.apply(splits...)
	t.Logf("loaded in %s", time.Since(started))
	before := lab.generation()
	if lab.apply(splits...) || lab.generation() != before {
		t.Error("applying the same again changed something")
	}
	started = time.Now()
	if lines := lab.differences(splits...); len(lines) > 0 {
		t.Errorf("differences: %q", lines[:1])
	}
	t.Logf("compared in %s", time.Since(started))
	times := make([]time.Duration, 20)
	for i := range times {
		started = time.Now()
		lab.setWeights(remoteSplit(traffic.Generation(i+2), 500_000+traffic.Weight(i)))
		times[i] = time.Since(started)
	}
	t.Logf("weights set in %s", times)
	got := lab.load(400, nil, service25v4, service25v6)
	if len(got.failed) > 0 || got.by[fromLocal] > 0 || !plausible(got.by[fromNew], 400, 500_000, unseededLooks) {
		t.Errorf("answers: %v", got)
	}
	started = time.Now()
	lab.cleanup(true)
	t.Logf("removed in %s", time.Since(started))
}

func BenchmarkSetWeights(b *testing.B) {
	lab := newSplitLab(b)
	lab.apply(manySplits(5, 50_000)...)
	s := manySplits(5, 50_000)[0]
	for b.Loop() {
		s.Generation++
		lab.setWeights(s)
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	wantError(t, openError(unix.EPERM), "kernel mode needs CAP_NET_ADMIN: run splitd as root, grant the capability, or set mode: proxy: operation not permitted")
	wantError(t, openError(unix.EPROTONOSUPPORT), "kernel mode needs nf_tables in the kernel: run `modprobe nf_tables nft_numgen nft_nat`, or set mode: proxy: protocol not supported")
}
