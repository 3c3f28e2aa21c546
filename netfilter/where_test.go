package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// The kernel sends every client where Where says: five thousand addresses of
// both families through the real rules.
func TestTheKernelSendsEachClientWhereWhereSays(t *testing.T) {
	always, never := netip.MustParsePrefix("198.18.7.0/24"), netip.MustParsePrefix("198.18.8.0/23")
	affine := func(prefix traffic.AffinityPrefix) traffic.Split {
		s := remoteSplit(1, 300_000)
		s.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.UDP}}
		s.Affinity, s.AffinityPrefix = traffic.AffinitySource, prefix
		s.Candidates[0].Addresses = addresses("10.0.2.12", "10.0.2.13", "10.0.2.14", "2001:db8:2::12")
		s.Candidates = append(s.Candidates, traffic.Backend{Name: "other", Weight: 250_000, Addresses: addresses("10.0.2.20", "2001:db8:2::20")})
		s.Candidates[0].Clients = traffic.Clients{Always: []netip.Prefix{always}, Never: []netip.Prefix{never}}
		return s
	}
	closed := affine(traffic.AffinityPrefix{IPv4: 32, IPv6: 128})
	closed.Candidates[0].Weight, closed.Candidates[0].Closed = 0, true
	down := affine(traffic.AffinityPrefix{IPv4: 24, IPv6: 56})
	down.Candidates[0].Down = []netip.Addr{netip.MustParseAddr("10.0.2.13"), netip.MustParseAddr("2001:db8:2::12")}
	three := affine(traffic.AffinityPrefix{IPv4: 24, IPv6: 56})
	three.Candidates = append(three.Candidates, traffic.Backend{Name: "third", Weight: 200_000, Addresses: addresses("10.0.2.30", "2001:db8:2::30")})
	three.Slots = three.Layout()
	const clients = 5000
	cases := []struct {
		name  string
		split traffic.Split
	}{
		{"hosts", affine(traffic.AffinityPrefix{IPv4: 32, IPv6: 128})},
		{"networks", affine(traffic.AffinityPrefix{IPv4: 24, IPv6: 64})},
		{"one is closed", closed},
		{"some are down", down},
		{"three candidates", three},
	}
	asked := map[netip.Addr]bool{}
	for i, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			lab, s := newSplitLab(t), tt.split
			lab.apply(s)
			got := lab.sides(s, i, len(cases), clients/2)
			if len(got) != clients/len(cases) {
				t.Fatalf("%d clients have a flow, want %d", len(got), clients/len(cases))
			}
			sides := map[string]int{}
			for client, flow := range got {
				side := s.Where(client)
				asked[client] = true
				sides[side.Backend]++
				if flow.Generation != s.Generation {
					t.Errorf("%s: its flow is of generation %d, want %d", client, flow.Generation, s.Generation)
				}
				if side.Backend != flow.Backend || side.Address != flow.Server.Addr() {
					t.Errorf("%s: Where says %s at %s (%s), the kernel says %s at %s", client, side.Backend, side.Address, side.Why, flow.Backend, flow.Server)
				}
			}
			t.Logf("%v", sides)
			if sides["old"] == 0 || sides["other"] == 0 {
				t.Errorf("the clients are on the sides %v: too few to tell", sides)
			}
		})
	}
	if len(asked) != clients {
		t.Errorf("%d clients were looked at, want %d", len(asked), clients)
	}
}

// sides sends a packet of every so manieth of n clients of each family, and
// returns the flows that conntrack has made of them.
func (lab *splitLab) sides(s traffic.Split, first, step, n int) map[netip.Addr]OpenFlow {
	lab.t.Helper()
	lab.client.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for _, network := range []string{"198.18.0.0/15", "2001:db8:aaaa::/48"} {
			dst, err := netlink.ParseIPNet(network)
			if err != nil {
				return err
			}
			route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST}
			if err := netlink.RouteReplace(route); err != nil {
				return err
			}
		}
		for i := first; i < n; i += step {
			// Several in each network, and many networks.
			four := netip.AddrFrom4([4]byte{198, 18 + byte(i&1), byte(i / 20), byte(1 + i*7)})
			six := netip.MustParseAddr(fmt.Sprintf("2001:db8:aaaa:%x::%x", i/20*257, i+1))
			if err := errors.Join(sendFrom(four, "192.0.2.25:53"), sendFrom(six, "[2001:db8::25]:53")); err != nil {
				return err
			}
		}
		return nil
	})
	flows := map[netip.Addr]OpenFlow{}
	for _, f := range lab.openFlows(Which{Splits: []traffic.Split{s}}) {
		flows[f.Client.Addr()] = f
	}
	return flows
}

// sendFrom sends one packet from an address.
func sendFrom(from netip.Addr, to string) error {
	target := netip.MustParseAddrPort(to)
	family := unix.AF_INET6
	var source, dest unix.Sockaddr = &unix.SockaddrInet6{Addr: from.As16()}, &unix.SockaddrInet6{Addr: target.Addr().As16(), Port: int(target.Port())}
	if from.Is4() {
		family = unix.AF_INET
		source, dest = &unix.SockaddrInet4{Addr: from.As4()}, &unix.SockaddrInet4{Addr: target.Addr().As4(), Port: int(target.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if from.Is6() { // a local route is not enough to bind to
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return err
		}
	}
	return errors.Join(unix.Bind(fd, source), unix.Sendto(fd, []byte{'?'}, 0, dest))
}
