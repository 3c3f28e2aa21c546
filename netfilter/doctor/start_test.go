package doctor

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// newFrontHost is a router with a service and a route to the new host, with
// nothing wrong but what each test breaks.
func newFrontHost(t *testing.T) *nettest.NS {
	t.Helper()
	front, back := nettest.New(t, "front"), nettest.New(t, "back")
	nettest.Link(t, front, "eth0", []string{"192.0.2.25/24", "2001:db8::25/64", "10.0.0.1/24", "fd00::1/64"}, back, "eth0", []string{"10.0.0.12/24", "fd00::12/64"})
	front.Route("0.0.0.0/0", "10.0.0.12")
	front.Route("::/0", "fd00::12")
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		front.Sysctl(name, "1")
	}
	for _, name := range []string{"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter"} {
		front.Sysctl(name, "2")
	}
	return front
}

func preflight(t *testing.T, ns *nettest.NS, splits []traffic.Split, paths []traffic.ReturnPath) (warnings []string, fault string) {
	t.Helper()
	ns.Do(func() error {
		var err error
		if warnings, err = Preflight(about(splits, paths)); err != nil {
			fault = err.Error()
		}
		return nil
	})
	return warnings, fault
}

const trackingNote = "note: connection tracking is turned on"

func TestPreflightFindsTheFaultInTheKernel(t *testing.T) {
	t.Parallel()
	both := mxSplit("10.0.0.12", "fd00::12")
	for name, test := range map[string]struct {
		breakIt func(*testing.T, *nettest.NS)
		splits  []traffic.Split
		paths   []traffic.ReturnPath
		want    []string // a part of each warning or fault
	}{
		"nothing":          {splits: []traffic.Split{both}, want: []string{trackingNote}},
		"nothing asked":    {},
		"no IPv4 forward":  {breakIt: setting("net/ipv4/ip_forward", "0"), splits: []traffic.Split{both}, want: []string{"`sysctl -w net.ipv4.ip_forward=1`"}},
		"no IPv6 forward":  {breakIt: setting("net/ipv6/conf/all/forwarding", "0"), splits: []traffic.Split{both}, want: []string{"`sysctl -w net.ipv6.conf.all.forwarding=1`"}},
		"strict, new host": {breakIt: strict, paths: byMark(), want: []string{"`sysctl -w net/ipv4/conf/eth0/rp_filter=2`", trackingNote}},
		"loose, new host":  {paths: byMark(), want: []string{trackingNote}},
		"no such address":  {paths: byAddress()[:1], want: []string{"`ip address add 10.0.0.200/32 dev eth0`"}},
		"no such device": {
			paths: []traffic.ReturnPath{{Name: "x", Device: "eth9", Match: traffic.MatchAddress, Address: addr("10.0.0.1")}},
			want:  []string{`there is no device "eth9"`},
		},
		"service elsewhere": {breakIt: dropAddress, splits: []traffic.Split{both}, want: []string{"service address 192.0.2.25 is not on this host", trackingNote}},
		"no route":          {splits: []traffic.Split{mxSplit("203.0.113.9")}, breakIt: noDefault, want: []string{"no route to 203.0.113.9", trackingNote}},
		"tracking already":  {breakIt: foreignNAT(-100, 25), splits: []traffic.Split{both}},
		"taken before":      {breakIt: foreignNAT(-110, 25), splits: []traffic.Split{both}, want: []string{"rule takes 192.0.2.25 . tcp . 25 before splitd sees it"}},
		"another port":      {breakIt: foreignNAT(-110, 26), splits: []traffic.Split{both}},
		"drop":              {breakIt: foreignForward(), splits: []traffic.Split{mxSplit("10.0.0.12")}, want: []string{"`nft insert rule inet fw fwd ct status dnat accept`", trackingNote}},
		"marks of another": {breakIt: func(t *testing.T, ns *nettest.NS) {
			t.Helper()
			ns.ChangeRuleset(func(c *nftables.Conn) {
				newRuleset(c, nftables.TableFamilyINet, "qos").hook("pre", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150, anyPolicy, setFlowMark(0xfff00000, 0x00300000))
			})
		}, splits: []traffic.Split{both}, want: []string{"of which 0xfff00000 are splitd's: table inet qos, chain pre", trackingNote}},
		"marks of another's rule": {breakIt: func(_ *testing.T, ns *nettest.NS) {
			ns.Do(func() error {
				r := netlink.NewRule()
				r.Priority, r.Table, r.Mark, r.Mask = 900, 99, 0x18000000, new(uint32(0xfff00000))
				return netlink.RuleAdd(r)
			})
		}, splits: []traffic.Split{both}, want: []string{"routes by mark bits of splitd's (0xf8000000): ip rule pref 900 fwmark 0x18000000/0xfff00000 lookup 99", trackingNote}},
		"a route table of another": {breakIt: func(t *testing.T, ns *nettest.NS) {
			t.Helper()
			onDevice(t, ns, "eth0", func(link netlink.Link) error {
				return netlink.RouteAdd(&netlink.Route{Table: 5300, Dst: network("0.0.0.0/0"), Gw: net.ParseIP("10.0.0.12"), LinkIndex: link.Attrs().Index})
			})
		}, paths: byAddress()[:1], want: []string{`return path "four": another program has the default route in table 5300: default via 10.0.0.12 dev eth0: set ` + "`netfilter: {route_table: 5316}`"}},
		"drop with cure": {breakIt: foreignForward(join(isTranslated(), accept())), splits: []traffic.Split{both}, want: []string{trackingNote}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			front := newFrontHost(t)
			if test.breakIt != nil {
				test.breakIt(t, front)
			}
			before := snapshotText(t, front)
			warnings, fault := preflight(t, front, test.splits, test.paths)
			if fault != "" { // a fault says all that matters
				warnings = []string{fault}
			}
			same := slices.EqualFunc(warnings, test.want, strings.Contains)
			if !same {
				t.Errorf("Preflight found\n%s\nwant\n%s", strings.Join(warnings, "\n"), strings.Join(test.want, "\n"))
			}
			if after := snapshotText(t, front); after != before {
				t.Error("Preflight changed the host")
			}
		})
	}
}

func snapshotText(t *testing.T, ns *nettest.NS) string {
	t.Helper()
	s, err := ns.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s.Text()
}

func strict(_ *testing.T, ns *nettest.NS) {
	ns.Sysctl("net/ipv4/conf/all/rp_filter", "0")
	ns.Sysctl("net/ipv4/conf/eth0/rp_filter", "1")
}

func dropAddress(t *testing.T, ns *nettest.NS) {
	t.Helper()
	ns.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		address, err := netlink.ParseAddr("192.0.2.25/24")
		if err != nil {
			return err
		}
		return netlink.AddrDel(link, address)
	})
}

func noDefault(t *testing.T, ns *nettest.NS) {
	t.Helper()
	ns.Do(func() error {
		return netlink.RouteDel(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	})
}

func foreignNAT(priority int, port uint16) func(*testing.T, *nettest.NS) {
	return func(t *testing.T, ns *nettest.NS) {
		t.Helper()
		ns.ChangeRuleset(func(conn *nftables.Conn) {
			newRuleset(conn, nftables.TableFamilyINet, "theirs").hook("pre", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, priority, nftables.ChainPolicyAccept,
				join(toAddress("192.0.2.25"), toPort(port), translateToOther(0)))
		})
	}
}

func foreignForward(rules ...[]expr.Any) func(*testing.T, *nettest.NS) {
	return func(t *testing.T, ns *nettest.NS) {
		t.Helper()
		ns.ChangeRuleset(func(conn *nftables.Conn) {
			newRuleset(conn, nftables.TableFamilyINet, "fw").hook("fwd", nftables.ChainTypeFilter, nftables.ChainHookForward, 0, nftables.ChainPolicyDrop, rules...)
		})
	}
}

func setting(name, value string) func(*testing.T, *nettest.NS) {
	return func(_ *testing.T, ns *nettest.NS) { ns.Sysctl(name, value) }
}
