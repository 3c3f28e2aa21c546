package netfilter

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// strangers puts other programs' rules, routes and tables next to ours: in our
// tables, at our priorities, with protocols next to ours.
func (lab returnLab) strangers() {
	lab.t.Helper()
	lab.host.Do(func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			to := "198.51.100.0/24"
			if family == unix.AF_INET6 {
				to = "2001:db8:51::/48"
			}
			_, network, err := net.ParseCIDR(to)
			if err != nil {
				return err
			}
			for i, r := range []ipRule{
				{priority: 5201, family: family, mark: 0x77, mask: 0xff, table: 5300}, // in ours, not our protocol
				{priority: 4000, family: family, mark: 0x78, mask: 0xff, table: 99},
				{priority: 5202, family: family, mark: 0x79, mask: 0xff, table: 5300},
			} {
				theirs := r.netlink()
				theirs.Protocol = uint8(unix.RTPROT_STATIC + i*(Protocol-1-unix.RTPROT_STATIC)/2) // up to the one before ours
				if err := netlink.RuleAdd(theirs); err != nil {
					return err
				}
			}
			for _, r := range []netlink.Route{
				{Table: 5300, Protocol: unix.RTPROT_STATIC, Dst: network, Type: unix.RTN_BLACKHOLE, Family: family},
				{Table: 5301, Protocol: Protocol + 1, Dst: network, Type: unix.RTN_BLACKHOLE, Family: family},
				{Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC, Dst: network, Type: unix.RTN_BLACKHOLE, Family: family},
			} {
				if err := netlink.RouteAdd(&r); err != nil {
					return err
				}
			}
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		for _, name := range []string{"theirs", "spli"} {
			table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
			chain := conn.AddChain(&nftables.Chain{
				Name: "pre", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter,
			})
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule{statements: []statement{direction{}, countHere{}}}.expressions()})
		}
		return conn.Flush()
	})
}

func (lab returnLab) snapshot() netns.Snapshot {
	lab.t.Helper()
	s, err := lab.host.Snapshot()
	if err != nil {
		lab.t.Fatal(err)
	}
	return s
}

func TestRulesRoutesAndTablesOfOthersStayUntouched(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.strangers()
	before := lab.snapshot()
	smtp := traffic.Port{Number: 25, Transport: traffic.TCP}
	for _, paths := range [][]traffic.ReturnPath{byAddress(), byMark(smtp), append(byMark(smtp), byAddress()...), byMark(), byAddress()[:1]} {
		lab.apply(paths...)
		lab.inSync(paths)
		once := lab.snapshot()
		if lab.apply(paths...) {
			t.Error("the second apply says that it changed something")
		}
		if diff := once.Differences(lab.snapshot()); diff != nil {
			t.Errorf("the second apply changed:\n%s", strings.Join(diff, "\n"))
		}
		for _, line := range before.Differences(once) {
			if strings.HasPrefix(line, "-") {
				t.Errorf("gone after apply: %s", line)
			}
		}
	}
	lab.cleanup()
	if diff := before.Differences(lab.snapshot()); diff != nil {
		t.Errorf("after cleanup:\n%s", strings.Join(diff, "\n"))
	}
	lab.cleanup()
}

// overwriteMarks does on every packet, before and behind our rules, worse than
// Tailscale does on some: it gives its eight bits of both marks a value.
func (lab returnLab) overwriteMarks(keep, value uint32) {
	lab.t.Helper()
	lab.host.ChangeRuleset(func(conn *nftables.Conn) {
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "theirs"})
		for name, hook := range map[string]*nftables.ChainHook{"pre": nftables.ChainHookPrerouting, "out": nftables.ChainHookOutput} {
			for i, priority := range []nftables.ChainPriority{priorityReturn - 1, priorityReturn + 1} {
				kind := nftables.ChainTypeFilter
				if name == "out" {
					kind = nftables.ChainTypeRoute
				}
				chain := conn.AddChain(&nftables.Chain{Name: fmt.Sprint(name, i), Table: table, Type: kind, Hooknum: hook, Priority: &priority})
				conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule{statements: []statement{
					markFlow{keep: keep, value: value}, markPacket{keep: keep, value: value},
				}}.expressions()})
			}
		}
	})
}

func TestRepliesFindTheirWayWhereTailscaleOverwritesItsMarkBits(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.translate("10.0.0.12", "fd00::12")
	lab.apply(byMark()...)
	for _, value := range []uint32{0, 0x00040000, 0x00ff0000} {
		lab.overwriteMarks(^uint32(0x00ff0000), value)
		lab.reaches(lab.client, service4, client4)
		lab.reaches(lab.client, service6, client6)
	}
}

func TestAForeignRouteInTheWayIsNamedAndKept(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.host.Do(func() error {
		link, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Table: 5300, Dst: anywhere(unix.AF_INET), LinkIndex: link.Attrs().Index, Gw: net.ParseIP("10.7.0.1")})
	})
	want, err := BuildReturns(byAddress(), labSettings)
	if err != nil {
		t.Fatal(err)
	}
	var got string
	lab.host.Do(func() error {
		if _, err := applyReturns(t.Context(), want); err != nil {
			got = err.Error()
		}
		return nil
	})
	const text = `add route "ip route add default via 10.0.0.1 dev eth0 table 5300 protocol 83": another program has such a route in table 5300: set netfilter.route_table to a free range: file exists`
	if diff := cmp.Diff(text, got); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestAPathWhoseDeviceIsNotThereYetDropsAndHeals(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	path := traffic.ReturnPath{Name: "later", Via: addr("10.9.0.1"), Device: "eth9", Match: traffic.MatchAddress, Address: addr("10.9.0.200")}
	lab.apply(path) // no error: it is fail closed
	lab.follow([]traffic.ReturnPath{path})
	lab.eventuallyWays(0)
	if err := lab.host.AddAddresses("eth0", "10.9.0.200/32"); err != nil {
		t.Fatal(err)
	}
	_, err := lab.ask(lab.host, "10.7.0.1:9", mustCome)
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the host's own traffic: %v, want refused by the other side", err)
	}
	if err := lab.askFrom(lab.host, "10.9.0.200", "10.7.0.1:9"); err == nil || !strings.Contains(err.Error(), "invalid argument") {
		t.Errorf("a packet from the path's address: %v, want dropped by the blackhole (EINVAL, ip-route(8))", err)
	}
	far := nettest.New(t, "far")
	nettest.Link(t, lab.host, "eth9", []string{"10.9.0.12/24"}, far, "eth0", []string{"10.9.0.1/24"})
	lab.eventuallyWays(1)
	lab.inSync([]traffic.ReturnPath{path})
}

func (lab returnLab) askFrom(ns *nettest.NS, from, address string) error {
	return ns.NS.Do(func() error {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.DialContext(lab.t.Context(), "tcp", address)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

func TestAMarkedTunnelDoesNotCarryItsOwnOuterPackets(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.vxlan(lab.router, "10.0.0.12", "10.200.0.1/24")
	lab.vxlan(lab.host, "10.0.0.1", "10.200.0.12/24")
	lab.translate("10.200.0.12")
	lab.fails(lab.client, service4)
	path := traffic.ReturnPath{Name: "vx", Via: addr("10.200.0.1"), Device: "vx0", Match: traffic.MatchMark}
	lab.apply(path)
	lab.reaches(lab.client, service4, client4)
	if lab.apply(path) {
		t.Error("the second apply changed something")
	}
}

// vxlan makes a tunnel device with one far end.
func (lab returnLab) vxlan(ns *nettest.NS, far, address string) {
	lab.t.Helper()
	ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "vx0"
		err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, Port: 4789, Group: net.ParseIP(far), Learning: true})
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName("vx0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	if err := ns.AddAddresses("vx0", address); err != nil {
		lab.t.Fatal(err)
	}
}

func TestATunnelWithoutNeighboursIsMarkedByItsDevice(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.translate("10.0.0.12", "fd00::12")
	// On Ethernet a route without router works while the router answers for
	// the client (proxy ARP), which shows that the device alone is matched.
	lab.router.Sysctl("net/ipv4/conf/eth1/proxy_arp", "1")
	lab.router.Sysctl("net/ipv4/neigh/eth1/proxy_delay", "0")
	lab.fails(lab.client, service4)
	lab.apply(traffic.ReturnPath{Name: "wire", Device: "eth0", Match: traffic.MatchMark})
	lab.reaches(lab.client, service4, client4)
}

func TestAnAddressedPathWorksUnderStrictReversePathFiltering(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.translate("10.0.0.200")
	lab.host.Sysctl("net/ipv4/conf/all/rp_filter", "1")
	lab.apply(byAddress()...)
	lab.reaches(lab.client, service4, client4)
}

func TestAStoppedContextChangesNothing(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	before := lab.snapshot()
	want, err := BuildReturns(byAddress(), labSettings)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lab.host.Do(func() error {
		if _, err := applyReturns(ctx, want); err == nil {
			t.Error("no error")
		}
		return nil
	})
	if diff := before.Differences(lab.snapshot()); diff != nil {
		t.Errorf("changed: %q", diff)
	}
}

func TestWhatOthersDidToTheMarkingTableIsNamedAndMended(t *testing.T) {
	t.Parallel()
	table := markTable()
	arrivals := &nftables.Chain{Name: chainArrivals, Table: table}
	for name, test := range map[string]struct {
		meddle func(*nftables.Conn)
		want   []string
	}{
		"the table is gone": {func(c *nftables.Conn) { c.DelTable(table) }, []string{"table inet splitd_return: missing"}},
		"a chain is empty":  {func(c *nftables.Conn) { c.FlushChain(arrivals) }, []string{"chain arrivals: differs"}},
		"a set is empty":    {func(c *nftables.Conn) { c.FlushSet(nftSet(table, "neighbour/six")) }, []string{"set neighbour/six: does not hold the address of fd00::1"}},
		"a rule is added": {func(c *nftables.Conn) {
			c.AddRule(&nftables.Rule{Table: table, Chain: arrivals, Exprs: accept().expressions()})
		}, []string{"chain arrivals: differs"}},
		"a chain is added": {func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Name: "stray", Table: table}) }, []string{"chain stray: to be removed"}},
		"a set is added":   {func(c *nftables.Conn) { _ = c.AddSet(nftSet(table, "stray"), nil) }, []string{"set stray: to be removed"}},
		"a set of other kind": {func(c *nftables.Conn) {
			_ = c.AddSet(&nftables.Set{Table: table, Name: "odd", KeyType: nftables.TypeMark}, nil)
		}, []string{"set odd: to be removed"}},
		"a hook has moved": {func(c *nftables.Conn) {
			output := &nftables.Chain{Name: chainOutput, Table: table}
			c.DelChain(output)
			output.Type, output.Hooknum, output.Priority = nftables.ChainTypeRoute, nftables.ChainHookOutput, nftables.ChainPriorityFilter
			c.AddChain(output)
		}, []string{"chain output: differs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.wrongWay()
			lab.serve("25")
			lab.translate("10.0.0.12", "fd00::12")
			lab.apply(byMark()...)
			lab.host.ChangeRuleset(test.meddle)
			if diff := cmp.Diff(test.want, lab.differences(byMark())); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if !lab.apply(byMark()...) {
				t.Error("apply says that it changed nothing")
			}
			lab.inSync(byMark())
			lab.reaches(lab.client, service4, client4)
			lab.reaches(lab.client, service6, client6)
		})
	}
}

func (lab returnLab) differences(paths []traffic.ReturnPath) []string {
	lab.t.Helper()
	want, err := BuildReturns(paths, labSettings)
	if err != nil {
		lab.t.Fatal(err)
	}
	var lines []string
	lab.host.Do(func() error {
		conn, socket, err := Dial()
		if err != nil {
			return err
		}
		defer func() { _ = socket.Close() }()
		lines, err = differencesReturns(lab.t.Context(), want, conn)
		return err
	})
	return lines
}
