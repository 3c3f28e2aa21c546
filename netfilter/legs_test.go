package netfilter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// transparentSplit has a primary at loopback addresses of the router and one
// candidate there too, at other addresses; a third is elsewhere.
func transparentSplit() traffic.Split {
	s := localSplit(1, 500_000)
	s.Mode, s.Proxy.Transparent = traffic.ModeProxy, true
	s.Candidates = append(s.Candidates, traffic.Backend{Name: "beside", Addresses: addresses("192.0.2.1:26", "[2001:db8::1]:26")})
	return s
}

func TestTheTextOfTransparentRelaysIsKept(t *testing.T) {
	alone := transparentSplit()
	several := transparentSplit()
	several.Name = "other"
	several.Service.Ports[0].Number = 2525
	several.Candidates[0].Addresses = addresses("127.0.0.2:26", "[::1]:26")
	opaque := transparentSplit()
	opaque.Proxy.Transparent = false
	for name, splits := range map[string][]traffic.Split{
		"alone": {alone}, "several": {several, alone, opaque}, "beside": {alone, goldenSplits()["minimal"][0]}, "none": {opaque},
	} {
		d, err := Describe(splits, nil, labSettings)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "legs/"+name+".nft", d.Nft)
		golden(t, "legs/"+name+".ip", strings.Join(append(d.Rules, d.Routes...), "\n"))
	}
}

// Else what stands would differ for ever from what is wanted.
func TestWhatLegsNeedKnowsNoOrderOfPortsAndSplits(t *testing.T) {
	one, other, back := transparentSplit(), transparentSplit(), transparentSplit()
	one.Service.Ports = []traffic.Port{{Number: 25, Transport: traffic.TCP}, {Number: 2525, Transport: traffic.TCP}}
	back.Service.Ports = []traffic.Port{one.Service.Ports[1], one.Service.Ports[0]}
	other.Name, other.Service.Ports = "other", []traffic.Port{{Number: 26, Transport: traffic.TCP}}
	for i, pair := range [][2][]traffic.Split{{{one}, {back}}, {{one, other}, {other, back}}, {{one, one}, {back}}} {
		a, b := legsOf(pair[0], labSettings), legsOf(pair[1], labSettings)
		if !a.equal(b) || !a.with(b).equal(a) {
			t.Errorf("pair %d: %+v and %+v", i, a, b)
		}
	}
}

// serveAsked answers with the address that it sees and then echoes, at every
// backend of transparentSplit.
func (lab *splitLab) serveAsked() {
	lab.t.Helper()
	handle := func(c net.Conn) {
		if _, err := fmt.Fprintln(c, c.RemoteAddr()); err == nil {
			_, _ = io.Copy(c, c)
		}
	}
	for _, at := range []string{"127.0.0.1:25", "[::1]:25", "192.0.2.1:26", "[2001:db8::1]:26"} {
		lab.router.Serve("tcp", at, handle)
	}
	for _, at := range []string{"10.0.2.12:25", "[2001:db8:2::12]:25"} {
		lab.new.Serve("tcp", at, handle)
	}
}

// legBackends are those of transparentSplit, with a client of each family.
func legBackends() map[string]string {
	const four, six = "192.0.2.101", "2001:db8::101"
	return map[string]string{
		"127.0.0.1:25": four, "192.0.2.1:26": four, "10.0.2.12:25": four,
		"[::1]:25": six, "[2001:db8::1]:26": six, "[2001:db8:2::12]:25": six,
	}
}

var legPorts atomic.Uint32

// leg connects from the router to a backend with a client's address, and says
// which address the server has seen.
func (lab *splitLab) leg(client, backend string) (c net.Conn, as, seen string) {
	lab.t.Helper()
	from := netip.AddrPortFrom(netip.MustParseAddr(client), uint16(20_000+legPorts.Add(1)%1000))
	lab.router.Do(func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Control: forLegs(from.Addr().Is6()), Timeout: 10 * time.Second}
		c, err = d.DialContext(context.Background(), "tcp", backend)
		return err
	})
	lab.t.Cleanup(func() { _ = c.Close() })
	answer := make([]byte, 100)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(answer)
	if err != nil {
		lab.t.Fatalf("%s as %s: %v", backend, from, err)
	}
	return c, from.String(), strings.TrimSpace(string(answer[:n]))
}

func TestBackendsSeeTheClientsAddressOfATransparentRelay(t *testing.T) {
	t.Parallel()
	for _, forwards := range []string{"1", "0"} { // a relay's host need not be a router
		lab := newSplitLab(t)
		lab.router.Sysctl("net/ipv4/ip_forward", forwards)
		lab.router.Sysctl("net/ipv6/conf/all/forwarding", forwards)
		lab.serveAsked()
		lab.apply(transparentSplit())
		for backend, client := range legBackends() {
			if _, as, seen := lab.leg(client, backend); seen != as {
				t.Errorf("with forwarding %s: %s saw %s, want %s", forwards, backend, seen, as)
			}
		}
	}
}

// What PrepareLegs makes is enough for a relay, and takes away nothing of what
// an earlier process has left.
func TestARelayMayBeginBeforeTheFirstApply(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAsked()
	lab.apply(localSplit(1, 500_000))
	lab.kernel = lab.open()
	other := transparentSplit()
	other.Name = "other"
	before := lab.snapshot()
	for range 2 {
		lab.router.Do(func() error { return lab.kernel.PrepareLegs(t.Context(), []traffic.Split{other}) })
	}
	for backend, client := range legBackends() {
		if _, as, seen := lab.leg(client, backend); seen != as {
			t.Errorf("%s saw %s, want %s", backend, seen, as)
		}
	}
	if changed := lab.apply(localSplit(1, 500_000), other); changed {
		t.Error("the apply after it changed something")
	}
	for _, line := range before.Differences(lab.snapshot()) {
		if strings.HasPrefix(line, "-") {
			t.Errorf("it has taken away: %s", line)
		}
	}
}

func (lab *splitLab) retireLegs() {
	lab.t.Helper()
	lab.router.Do(func() error {
		lab.kernel.mu.Lock()
		defer lab.kernel.mu.Unlock()
		return lab.kernel.retireLegs(lab.t.Context())
	})
}

func TestWhatLegsNeedStaysUntilTheyEnd(t *testing.T) {
	lab := newSplitLab(t)
	lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	lab.serveAsked()
	before := lab.snapshot()
	open := map[string]net.Conn{}
	lab.apply(transparentSplit())
	for backend, client := range legBackends() {
		open[backend], _, _ = lab.leg(client, backend)
	}
	opaque := transparentSplit()
	opaque.Proxy.Transparent = false
	lab.apply(opaque)
	if lines := lab.differences(opaque); len(lines) > 0 {
		t.Errorf("differences while legs are open: %q", lines)
	}
	lab.kernel = lab.open() // a new process learns it from the kernel
	lab.apply(opaque)
	works := func(when string) {
		for backend, c := range open {
			if err := echoes(c); err != nil {
				t.Errorf("%s: the leg to %s: %v", when, backend, err)
			}
		}
	}
	works("after the split was no more transparent")
	lab.clock.advance(2 * legsRest)
	lab.retireLegs()
	works("after what nothing needs was retired")
	for backend, c := range open {
		if backend != "127.0.0.1:25" {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
			delete(open, backend)
		}
	}
	lab.router.Run("nft", "flush", "ruleset")
	if diff := cmp.Diff([]string{"table inet splitd_legs is missing"}, lab.differences(opaque)); diff != "" {
		t.Errorf("after a flush, differences (-want +got):\n%s", diff)
	}
	lab.apply(opaque)
	works("after a flush was mended")
	_ = open["127.0.0.1:25"].(*net.TCPConn).SetLinger(0)
	_ = open["127.0.0.1:25"].Close()
	lab.eventually("what legs need goes after the last one", func() bool {
		lab.retireLegs()
		return lab.kernel.legs.standing.Load() == nil
	})
	lab.cleanup(false)
	if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
		t.Errorf("differences to the beginning: %q", lines)
	}
}

func TestWhatLegsNeededAndCouldNotBeRemovedIsTriedAgain(t *testing.T) {
	lab := newSplitLab(t)
	before := lab.snapshot()
	lab.apply(transparentSplit())
	opaque := transparentSplit()
	opaque.Proxy.Transparent = false
	lab.apply(opaque)
	lab.clock.advance(2 * legsRest)
	commit, cancelled := lab.kernel.commit, errors.New("the kernel is busy")
	for _, fails := range []func() context.Context{
		func() context.Context { // ip rules and routes
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		},
		func() context.Context { // the table
			lab.kernel.commit = func([]step) error { return cancelled }
			return t.Context()
		},
	} {
		lab.router.Do(func() error {
			lab.kernel.mu.Lock()
			defer lab.kernel.mu.Unlock()
			if err := lab.kernel.retireLegs(fails()); err == nil {
				t.Error("it did not fail")
			}
			return nil
		})
	}
	lab.kernel.commit = commit
	lab.retireLegs()
	if lab.kernel.legs.standing.Load() != nil {
		t.Error("it is kept though nothing wants it")
	}
	lab.cleanup(false)
	if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
		t.Errorf("differences to the beginning: %q", lines)
	}
}

func TestARelayThatDoesNotBeginLeavesNothingOfWhatItWouldHaveNeeded(t *testing.T) {
	lab := newSplitLab(t)
	for _, was := range [][]traffic.Split{nil, {transparentSplit()}} {
		if was != nil {
			lab.apply(was...)
		}
		lab.kernel = lab.open()
		before := lab.snapshot()
		other := transparentSplit()
		other.Name, other.Service.Ports = "other", []traffic.Port{{Number: 2626, Transport: traffic.TCP}}
		other.Primary.Addresses = nil
		other.Primary.Local = true
		lab.router.Do(func() error { return lab.kernel.PrepareLegs(t.Context(), []traffic.Split{other}) })
		if len(before.Differences(lab.snapshot())) == 0 {
			t.Error("nothing was prepared: the test shows nothing")
		}
		for range 2 {
			lab.router.Do(lab.kernel.AbandonLegs)
		}
		if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
			t.Errorf("with %d splits before: differences: %q", len(was), lines)
		}
	}
	lab.apply(transparentSplit())
	before := lab.snapshot()
	lab.router.Do(lab.kernel.AbandonLegs)
	if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
		t.Errorf("after an apply it takes away: %q", lines)
	}
}

func TestWhatOthersDidToTransparentRelaysIsToldAndMended(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.serveAsked()
	split := transparentSplit()
	lab.apply(split)
	for deed, want := range map[string]string{
		"nft flush table inet splitd_legs":                                         "table inet splitd_legs has other rules than wanted",
		"nft delete chain inet splitd_legs replies":                                "table inet splitd_legs has other rules than wanted",
		"nft add rule inet splitd_legs legs accept":                                "table inet splitd_legs has other rules than wanted",
		"nft delete table inet splitd_legs":                                        "table inet splitd_legs is missing",
		"ip rule del pref 5218":                                                    "ip rule add pref 5218 from 127.0.0.1 sport 25 lookup 5315 protocol 83: missing",
		"ip rule add pref 5218 from 127.0.0.1 sport 26-27 lookup 5315 protocol 83": "ip rule del pref 5218 from 127.0.0.1 lookup 5315 protocol 83: to be removed",
		"ip -6 rule del pref 5217":                                                 "ip -6 rule add pref 5217 fwmark 0x18000000/0xf8000000 lookup 5315 protocol 83: missing",
		"ip route del local default dev lo table 5315 protocol 83":                 "ip route add local default dev lo table 5315 protocol 83: missing",
	} {
		words := strings.Fields(deed)
		lab.router.Run(words[0], words[1:]...)
		if diff := cmp.Diff([]string{want}, lab.differences(split)); diff != "" {
			t.Errorf("%s: differences (-want +got):\n%s", deed, diff)
		}
		lab.apply(split)
		if lines := lab.differences(split); len(lines) > 0 {
			t.Errorf("%s: after apply there are differences: %q", deed, lines)
		}
		if changed := lab.apply(split); changed {
			t.Errorf("%s: the second apply changed something", deed)
		}
	}
	for backend, client := range legBackends() {
		if _, as, seen := lab.leg(client, backend); seen != as {
			t.Errorf("%s saw %s, want %s", backend, seen, as)
		}
	}
}

func TestCleanupLeavesWhatOpenLegsNeed(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAsked()
	for backend, client := range legBackends() {
		before := lab.snapshot()
		lab.apply(transparentSplit())
		c, _, _ := lab.leg(client, backend)
		for range 2 {
			if got, want := lab.cleanup(false), (CleanupResult{LiveFlows: 1, RelayFlows: 1, RelayLeft: true}); got != want {
				t.Errorf("%s: cleanup with an open leg = %+v, want %+v", backend, got, want)
			}
			if err := echoes(c); err != nil {
				t.Errorf("the leg to %s after cleanup: %v", backend, err)
			}
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		lab.eventually("all goes after the leg", func() bool { return lab.cleanup(false) == CleanupResult{} })
		if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
			t.Errorf("%s: differences after cleanup: %q", backend, lines)
		}
	}
	before := lab.snapshot()
	lab.apply(transparentSplit())
	lab.leg("192.0.2.101", "127.0.0.1:25")
	if got, want := lab.cleanup(true), (CleanupResult{LiveFlows: 1, RelayFlows: 1}); got != want {
		t.Errorf("cleanup now = %+v, want %+v", got, want)
	}
	if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
		t.Errorf("differences after cleanup now: %q", lines)
	}
}
