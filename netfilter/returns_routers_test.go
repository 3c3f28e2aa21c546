package netfilter

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// newTwoRouters is one new host behind two routers, each with a client of its
// own. Both clients have the same address and ask the same service, so that
// nothing but the way a flow came in tells them apart. The routers are
// neighbours on one link, or on a link each.
func newTwoRouters(t *testing.T, oneLink bool) [2]returnLab {
	t.Helper()
	host, lan := nettest.New(t, "new"), nettest.New(t, "lan")
	lan.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(bridge)
	})
	if oneLink {
		nettest.Link(t, host, "eth0", []string{"10.0.0.12/24", "10.0.1.12/24"}, lan, "host", nil)
		join(lan, "host")
	}
	var labs [2]returnLab
	for i := range labs {
		lab := returnLab{t: t, client: nettest.New(t, "client"), router: nettest.New(t, "router"), host: host}
		nettest.Link(t, lab.client, "eth0", []string{"192.0.2.100/24"}, lab.router, "eth0", []string{"192.0.2.1/24"})
		address := []string{fmt.Sprintf("10.0.%d.1/24", i)}
		if port := fmt.Sprintf("port%d", i); oneLink {
			nettest.Link(t, lab.router, "eth1", address, lan, port, nil)
			join(lan, port)
		} else {
			nettest.Link(t, lab.router, "eth1", address, host, fmt.Sprintf("eth%d", i), []string{fmt.Sprintf("10.0.%d.12/24", i)})
		}
		lab.router.Sysctl("net/ipv4/ip_forward", "1")
		lab.translate(fmt.Sprintf("10.0.%d.12", i))
		labs[i] = lab
	}
	// Some route, however wrong: the first SYN-ACK is made before it is marked.
	host.Route("0.0.0.0/0", "10.0.0.9")
	labs[0].serve("25")
	return labs
}

func join(lan *nettest.NS, port string) {
	lan.Do(func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, bridge)
	})
}

func TestTwoRoutersInFrontOfOneHostAreToldApart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		oneLink bool
		devices [2]string
		match   traffic.ReturnMatch
	}{
		"by neighbour": {true, [2]string{"eth0", "eth0"}, traffic.MatchMark},
		"by device":    {false, [2]string{"eth0", "eth1"}, traffic.MatchMark},
		"by address":   {true, [2]string{"eth0", "eth0"}, traffic.MatchAddress},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			labs := newTwoRouters(t, test.oneLink)
			var paths []traffic.ReturnPath
			for i := range labs {
				p := traffic.ReturnPath{Name: fmt.Sprintf("router%d", i), Via: addr(fmt.Sprintf("10.0.%d.1", i)), Device: test.devices[i], Match: test.match}
				if test.match == traffic.MatchAddress {
					p.Address = addr(fmt.Sprintf("10.0.%d.12", i))
				}
				paths = append(paths, p)
			}
			labs[0].fails(labs[0].client, service4)
			labs[1].fails(labs[1].client, service4)
			labs[0].apply(paths...)
			for range 3 {
				labs[0].reaches(labs[0].client, service4, client4)
				labs[1].reaches(labs[1].client, service4, client4)
			}
			labs[0].apply(paths[0])
			labs[0].reaches(labs[0].client, service4, client4)
			labs[1].fails(labs[1].client, service4)
		})
	}
}

func TestATunnelCarriesRepliesOfBothMatchesAndNoneWithoutItsGuard(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]traffic.ReturnPath{
		"mark":    {Name: "vx", Via: addr("10.200.0.1"), Device: "vx0", Match: traffic.MatchMark},
		"address": {Name: "vx", Via: addr("10.200.0.1"), Device: "vx0", Match: traffic.MatchAddress, Address: addr("10.200.0.12")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.wrongWay()
			lab.serve("25")
			lab.vxlan(lab.router, "10.0.0.12", "10.200.0.1/24")
			lab.vxlan(lab.host, "10.0.0.1", "10.200.0.12/24")
			lab.translate("10.200.0.12")
			lab.fails(lab.client, service4)
			lab.apply(path)
			lab.reaches(lab.client, service4, client4)
			if path.Match == traffic.MatchAddress {
				return // outer packets have neither the mark nor the address
			}
			lab.host.Do(func() error {
				return kernelRule{raw: *guard(labSettings, addr("10.0.0.1")).netlink()}.remove()
			})
			lab.fails(lab.client, service4)
			if !lab.apply(path) {
				t.Error("the guard's absence is not seen")
			}
			lab.reaches(lab.client, service4, client4)
		})
	}
}

// TestATunnelWhoseOwnEndIsThePathsAddressIsGuarded: the outer packets have the
// address that the rule looks for.
func TestATunnelWhoseOwnEndIsThePathsAddressIsGuarded(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.vxlan(lab.host, "10.0.0.1", "10.200.0.12/24")
	lab.apply(traffic.ReturnPath{Name: "vx", Via: addr("10.200.0.1"), Device: "vx0", Match: traffic.MatchAddress, Address: addr("10.0.0.12")})
	lab.host.Do(func() error {
		routes, err := netlink.RouteGetWithOptions(addr("10.0.0.1").AsSlice(), &netlink.RouteGetOptions{SrcAddr: addr("10.0.0.12").AsSlice()})
		if err != nil {
			return err
		}
		link, err := netlink.LinkByIndex(routes[0].LinkIndex)
		if err == nil && (routes[0].Type != unix.RTN_UNICAST || link.Attrs().Name != "eth0") {
			t.Errorf("outer packets leave by %s, want eth0", link.Attrs().Name)
		}
		return err
	})
}
