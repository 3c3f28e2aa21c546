package health_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// Only what has the flows' mark finds the way to the backend.
func TestACheckGoesTheWayOfPacketsWithItsMark(t *testing.T) {
	const mark = 0x08000000
	here, there := nettest.New(t, "here"), nettest.New(t, "there")
	nettest.Link(t, here, "eth0", []string{"10.9.0.1/24"}, there, "eth0", []string{"10.9.0.2/24"})
	if err := there.AddAddresses("lo", "10.9.9.9/32"); err != nil {
		t.Fatal(err)
	}
	here.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		rule := netlink.NewRule()
		rule.Mark, rule.Table, rule.Priority = mark, 77, 100
		if err := netlink.RuleAdd(rule); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{
			Table: 77, LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 9, 0, 2),
			Dst: &net.IPNet{IP: net.IPv4(10, 9, 9, 9).To4(), Mask: net.CIDRMask(32, 32)},
		})
	})
	var l net.Listener
	there.Do(func() (err error) { l, err = net.Listen("tcp", "10.9.9.9:25"); return err })
	t.Cleanup(func() { _ = l.Close() })
	target := at(netip.MustParseAddrPort("10.9.9.9:25"), traffic.Health{Check: traffic.CheckTCP})
	expect(t, "without", check(here, target), health.Failed, "network is unreachable")
	target.Mark = mark
	expect(t, "with the mark", check(here, target), health.Passed, "")
}

// What this host does not let out says nothing about the backend.
func TestACheckThatThisHostRefusesIsUnknown(t *testing.T) {
	here := nettest.New(t, "here")
	c, err := nftables.New(nftables.WithNetNSFd(here.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"})
	c.AddChain(&nftables.Chain{
		Table: table, Name: "out", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput,
		Priority: nftables.ChainPriorityFilter, Policy: new(nftables.ChainPolicyDrop),
	})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	udp := at(netip.MustParseAddrPort("127.0.0.1:53"), traffic.Health{Check: traffic.CheckDNS})
	udp.Transport = traffic.UDP
	expect(t, "dns", check(here, udp), health.Unknown, "operation not permitted")
	target := at(netip.MustParseAddrPort("127.0.0.1:25"), traffic.Health{Check: traffic.CheckTCP, Timeout: 300 * time.Millisecond})
	if got := check(here, target); got.Outcome == health.Passed {
		t.Errorf("a connection that is dropped passes")
	}
}
