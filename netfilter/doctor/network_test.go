package doctor

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// newOneLink is clients (192.0.2.100), the router (.25) and the new host (.12,
// alias .200) on one link.
func newOneLink(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, world: nettest.New(t, "world"), router: nettest.New(t, "router"), new: nettest.New(t, "new")}
	wire := nettest.New(t, "switch")
	nettest.Link(t, wire, "p0", nil, l.world, "eth0", []string{"192.0.2.100/24"})
	nettest.Link(t, wire, "p1", nil, l.router, "eth0", []string{"192.0.2.25/24"})
	nettest.Link(t, wire, "p2", nil, l.new, "eth0", []string{"192.0.2.12/24", "192.0.2.200/32"})
	wire.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		for _, port := range []string{"p0", "p1", "p2"} {
			link, err := netlink.LinkByName(port)
			if err != nil {
				return err
			}
			if err := netlink.LinkSetMaster(link, bridge); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(bridge)
	})
	l.router.Sysctl("net/ipv4/ip_forward", "1")
	l.new.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	l.new.Sysctl("net/ipv4/conf/eth0/rp_filter", "0")
	l.router.Do(func() (err error) {
		l.kernel, err = netfilter.Open(netfilter.Options{Settings: settings, Log: slog.New(slog.DiscardHandler)})
		return err
	})
	t.Cleanup(func() { _ = l.kernel.Close() })
	return l
}

// applyPaths makes return paths on the new host.
func (l *lab) applyPaths(paths ...traffic.ReturnPath) {
	l.t.Helper()
	l.new.Do(func() error {
		k, err := netfilter.Open(netfilter.Options{Settings: settings, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		defer func() { _ = k.Close() }()
		_, err = k.Apply(l.t.Context(), nil, paths)
		return err
	})
}

// untilServed waits: a bridge forwards after a moment.
func (l *lab) untilServed() {
	l.t.Helper()
	nettest.Eventually(l.t, "somebody answers without splits", func() bool { return l.ask(1, 2*time.Second, service4)[fromLocal] == 1 })
}

func TestClientsAndBackendOnOneLink(t *testing.T) {
	t.Parallel()
	l := newOneLink(t)
	l.serveAll()
	l.untilServed()
	split := mxSplit("192.0.2.12")
	split.Candidates[0].Weight, split.Return = traffic.Whole, traffic.ReturnGateway
	l.apply(split)
	l.only(0, 3, brief, service4, "replies that go around the router")
	if got, want := l.cureOf("hairpin", split), "return: policy` or `return: masquerade"; got != want {
		t.Errorf("the cure is %q, want %q", got, want)
	}
	split.Return, split.Generation = traffic.ReturnMasquerade, 2
	l.apply(split)
	l.only(fromNew, 5, long, service4, "masqueraded")
	if got := l.cureOf("hairpin", split); got != "" {
		t.Errorf("masqueraded there is still %q", got)
	}
	// The new host's table overrides what is on the link.
	split.Return, split.Generation = traffic.ReturnPolicy, 3
	split.Candidates[0].Addresses = []traffic.Address{{IP: addr("192.0.2.200")}}
	l.router.Sysctl("net/ipv4/conf/all/send_redirects", "0")
	l.router.Sysctl("net/ipv4/conf/eth0/send_redirects", "0")
	l.router.Do(func() error { // an alias needs a route
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{Dst: network("192.0.2.200/32"), LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
	l.applyPaths(traffic.ReturnPath{Name: "back", Via: addr("192.0.2.25"), Device: "eth0", Match: traffic.MatchAddress, Address: addr("192.0.2.200")})
	l.apply(split)
	l.only(fromNew, 5, long, service4, "by policy")
	if got := l.cureOf("hairpin", split); got != "" {
		t.Errorf("by policy, without redirects, there is still %q", got)
	}
}

// TestStrictFiltersDropWithEvidence has replies and new flows come in by
// another device than the route to their sender, on both hosts.
func TestStrictFiltersDropWithEvidence(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll()
	// A second link, which the new host prefers.
	nettest.Link(t, l.router, "eth2", []string{"10.1.0.1/24"}, l.new, "eth1", []string{"10.1.0.12/24"})
	for _, conf := range []string{"eth1", "all"} {
		l.new.Sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0")
	}
	l.router.Sysctl("net/ipv4/conf/eth2/rp_filter", "0")
	l.new.Do(func() error {
		return netlink.RouteReplace(&netlink.Route{Dst: network("0.0.0.0/0"), Gw: addr("10.1.0.1").AsSlice()})
	})
	split := fourOnly(all())
	l.apply(split)
	l.only(fromNew, 3, long, service4, "with loose filters")

	t.Run("router", func(t *testing.T) {
		l.router.Sysctl("net/ipv4/conf/eth2/rp_filter", "1")
		l.only(0, 2, brief, service4, "replies by a strict device")
		found := of(examine(t, l.router, about([]traffic.Split{split}, nil), nil), "rp-filter-router")
		if len(found) != 1 || !strings.Contains(found[0].Seen, "rp_filter is strict on eth2") || !strings.Contains(found[0].Seen, "packets were dropped so far") {
			t.Errorf("found %+v", found)
		}
		l.router.Sysctl("net/ipv4/conf/all/rp_filter", "2") // the cure
		l.only(fromNew, 3, long, service4, "after the cure")
		if got := l.cureOf("rp-filter-router", split); got != "" {
			t.Errorf("after the cure there is still %q", got)
		}
	})
	t.Run("new host", func(t *testing.T) {
		paths := byMark(traffic.Port{Number: 25, Transport: traffic.TCP})
		l.applyPaths(paths...)
		l.new.Sysctl("net/ipv4/conf/eth0/rp_filter", "1")
		l.only(0, 2, brief, service4, "flows that come in by a strict device")
		found := of(examine(t, l.new, about(nil, paths), nil), "rp-filter-new-host")
		if len(found) != 1 || !strings.Contains(found[0].Seen, "packets were dropped so far") {
			t.Fatalf("found %+v", found)
		}
		l.new.Sysctl(strings.TrimSuffix(strings.TrimPrefix(found[0].Cure, "sysctl -w "), "=2"), "2")
		l.only(fromNew, 3, long, service4, "after the cure")
	})
}

// advertise sends a router advertisement (RFC 4861, section 4.2) to all nodes
// on eth0, with a default route for half an hour.
func advertise(t *testing.T, ns *nettest.NS) {
	t.Helper()
	ns.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255); err != nil {
			return err
		}
		const advertisement = 134
		message := []byte{advertisement, 0, 0, 0, 64, 0, 1800 >> 8, 1800 & 0xff, 0, 0, 0, 0, 0, 0, 0, 0}
		return unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(link.Attrs().Index)})
	})
}

func TestAHostThatForwardsLosesItsAdvertisedRoute(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.router.Do(func() error {
		return netlink.RouteDel(&netlink.Route{Dst: network("::/0"), Gw: addr("2001:db8::1").AsSlice()})
	})
	l.router.Sysctl("net/ipv6/conf/all/forwarding", "0")
	l.router.Sysctl("net/ipv6/conf/eth0/accept_ra", "1")
	hasRoute := func() bool {
		var way Way
		l.router.Do(func() error {
			h, err := look(about(nil, nil))
			way = h.Clients6
			return err
		})
		return way.Device == "eth0"
	}
	until := func(want bool) {
		t.Helper()
		nettest.Eventually(t, fmt.Sprintf("a default route: %v", want), func() bool {
			advertise(t, l.world)
			return hasRoute() == want
		})
	}
	until(true)
	q := about([]traffic.Split{half()}, nil)
	off := of(examine(t, l.router, q, nil), "forwarding-off")
	const both = "sysctl -w net/ipv6/conf/eth0/accept_ra=2 && sysctl -w net.ipv6.conf.all.forwarding=1"
	if len(off) != 1 || off[0].Cure != both {
		t.Errorf("with forwarding off: %+v, want the cure %q", off, both)
	}

	l.router.Sysctl("net/ipv6/conf/all/forwarding", "1") // half of the cure
	if hasRoute() {
		t.Fatal("the kernel kept the advertised route")
	}
	var got []string
	for _, f := range of(examine(t, l.router, q, nil), "router-advertisements") {
		got = append(got, string(f.Level)+": "+f.sentence())
	}
	want := []string{"warning: this host has no IPv6 default route and ignores router advertisements on eth0 (and 1 more), because it forwards and accept_ra is 1: " +
		"if its default route comes from router advertisements, run `sysctl -w net/ipv6/conf/eth0/accept_ra=2`"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}

	l.router.Sysctl("net/ipv6/conf/eth0/accept_ra", "2") // the other half
	until(true)
	if f := of(examine(t, l.router, q, nil), "router-advertisements"); f[0].Level != LevelOK {
		t.Errorf("after the cure: %+v", f)
	}
}

// TestOurOwnClampIsForTCPAlone: once a split is applied its TCP segments are
// made to fit, and nothing does that for datagrams.
func TestOurOwnClampIsForTCPAlone(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll()
	onDevice(t, l.router, "eth1", func(link netlink.Link) error { return netlink.LinkSetMTU(link, 1400) })
	l.apply(half())
	level := func(s traffic.Split) Level {
		return of(examine(t, l.router, about([]traffic.Split{s}, nil), nil), "path-mtu")[0].Level
	}
	if got := level(half()); got != LevelOK {
		t.Errorf("TCP, clamped: %s", got)
	}
	dns := half()
	dns.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.UDP}}
	if got := level(dns); got != LevelNote {
		t.Errorf("UDP: %s, want a note", got)
	}
}

// A router may hold the service's address on lo, whose MTU of 65536 no client has.
func TestTheLoopbackDeviceIsNotTheClientsSide(t *testing.T) {
	split := mxSplit("10.0.0.12")
	host := Host{
		Ways: map[netip.Addr]Way{addr("10.0.0.12"): {Device: "eth1"}},
		Devices: map[string]Device{
			"eth1": {MTU: 1400}, "lo": {MTU: 65536, Loopback: true, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.25/32")}},
		},
	}
	if got := one(t, "path-mtu", host, about([]traffic.Split{split}, nil)); len(got) > 0 {
		t.Errorf("found %q", got)
	}
	host.Clients4 = Way{Device: "eth0"}
	host.Devices["eth0"] = Device{MTU: 1500}
	if got := one(t, "path-mtu", host, about([]traffic.Split{split}, nil)); len(got) != 1 || !strings.Contains(got[0], "1400 bytes, those of clients 1500") {
		t.Errorf("found %q", got)
	}
}

func TestWhetherConntrackPicksFlowsUpIsRead(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t, "router")
	for value, want := range map[string]bool{"0": false, "1": true} {
		ns.Sysctl("net/netfilter/nf_conntrack_tcp_loose", value)
		ns.Do(func() error {
			if got := PicksUp(); got != want {
				t.Errorf("with %s: %v, want %v", value, got, want)
			}
			return nil
		})
	}
}
