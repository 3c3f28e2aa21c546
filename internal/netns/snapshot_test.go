package netns_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// furnish puts a ruleset of another program into the namespace: a counting
// rule, a named counter, a set with an element.
func furnish(t *testing.T, ns *nettest.NS) {
	t.Helper()
	nft(t, ns, func(c *nftables.Conn) {
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "other"})
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: "in", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddObj(&nftables.NamedObj{Table: table, Name: "seen", Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}})
		set := &nftables.Set{Table: table, Name: "known", KeyType: nftables.TypeIPAddr}
		if err := c.AddSet(set, []nftables.SetElement{{Key: []byte{192, 0, 2, 1}}}); err != nil {
			t.Fatal(err)
		}
	})
}

func nft(t *testing.T, ns *nettest.NS, change func(*nftables.Conn)) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		t.Fatal(err)
	}
	change(c)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func snapshot(t *testing.T, ns *nettest.NS) netns.Snapshot {
	t.Helper()
	s, err := ns.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func link(t *testing.T) (a, b *nettest.NS) {
	a, b = nettest.New(t, "a"), nettest.New(t, "b")
	nettest.Link(t, a, "eth0", []string{"10.9.0.1/24", "fd09::1/64"}, b, "eth0", []string{"10.9.0.2/24", "fd09::2/64"})
	return a, b
}

func TestSnapshotSeesWhateverAProgramLeavesBehind(t *testing.T) {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "other"}
	chain := &nftables.Chain{Table: table, Name: "in"}
	tests := []struct {
		name   string
		change func(t *testing.T, ns *nettest.NS)
		want   string // begins a difference
	}{
		{"a table", func(t *testing.T, ns *nettest.NS) {
			nft(t, ns, func(c *nftables.Conn) {
				c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "splitd_keeper"})
			})
		}, "+ nft: table ip name splitd_keeper"},
		{"a rule in a foreign chain", func(t *testing.T, ns *nettest.NS) {
			nft(t, ns, func(c *nftables.Conn) {
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
			})
		}, "+ nft: rule inet table other chain in"},
		{"a foreign rule made anew", func(t *testing.T, ns *nettest.NS) {
			nft(t, ns, func(c *nftables.Conn) {
				c.FlushChain(chain)
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}})
			})
		}, "- nft: rule inet table other chain in"},
		{"an element of a foreign set", func(t *testing.T, ns *nettest.NS) {
			nft(t, ns, func(c *nftables.Conn) {
				set, err := c.GetSetByName(table, "known")
				if err != nil {
					t.Fatal(err)
				}
				if err := c.SetAddElements(set, []nftables.SetElement{{Key: []byte{192, 0, 2, 2}}}); err != nil {
					t.Fatal(err)
				}
			})
		}, "- nft: set inet table other name known"},
		{"a policy rule", func(t *testing.T, ns *nettest.NS) {
			rule := netlink.NewRule()
			rule.Priority, rule.Table, rule.Src = 5200, 5300, &net.IPNet{IP: net.IP{10, 9, 0, 1}, Mask: net.CIDRMask(32, 32)}
			ns.Do(func() error { return netlink.RuleAdd(rule) })
		}, "+ rule: ipv4 to/0 from/32"},
		{"a route in a table of its own", func(t *testing.T, ns *nettest.NS) {
			ns.Do(func() error {
				return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("fd09::2"), Table: 5300})
			})
		}, "+ route: ipv6 to/0"},
		{"an address", func(t *testing.T, ns *nettest.NS) {
			if err := ns.AddAddresses("lo", "192.0.2.25/32"); err != nil {
				t.Fatal(err)
			}
		}, "+ address: 192.0.2.25/32"},
		{"a sysctl", func(_ *testing.T, ns *nettest.NS) {
			ns.Sysctl("net/ipv4/conf/all/rp_filter", "2")
		}, "+ sysctl: net/ipv4/conf/all/rp_filter = 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ns, _ := link(t)
			ns.Sysctl("net/ipv4/conf/all/rp_filter", "0")
			furnish(t, ns)
			before := snapshot(t, ns)
			tt.change(t, ns)
			differences := before.Differences(snapshot(t, ns))
			for _, d := range differences {
				if strings.HasPrefix(d, tt.want) {
					return
				}
			}
			t.Errorf("differences = %q, none begins with %q", differences, tt.want)
		})
	}
}

func TestSnapshotIsTheSameTextAfterTrafficAndAfterAChangeAndBack(t *testing.T) {
	ns, other := link(t)
	furnish(t, ns)
	before := snapshot(t, ns)
	listener := listen(t, ns, "[fd09::1]:25")
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	other.Do(func() error {
		c, err := net.Dial("tcp", "[fd09::1]:25")
		if err != nil {
			return err
		}
		return c.Close()
	})
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Mark = 5201, 5300, 0x100000
	ns.Do(func() error { return netlink.RuleAdd(rule) })
	ns.Do(func() error { return netlink.RuleDel(rule) })
	after := snapshot(t, ns)
	if diff := cmp.Diff(before.Text(), after.Text()); diff != "" {
		t.Errorf("snapshot changed (-before +after):\n%s", diff)
	}
	if differences := before.Differences(after); len(differences) != 0 {
		t.Errorf("differences = %q", differences)
	}
}

func TestDifferencesNameOrderAndRepetition(t *testing.T) {
	tests := []struct {
		name        string
		was, is     []string
		differences []string
	}{
		{"equal", []string{"a", "b"}, []string{"a", "b"}, nil},
		{"one of two equal lines gone", []string{"a", "a"}, []string{"a"}, []string{"- rule: a"}},
		{"another order", []string{"a", "b"}, []string{"b", "a"}, []string{"+ rule: the same lines in another order"}},
		{"gone and new", []string{"a"}, []string{"b"}, []string{"- rule: a", "+ rule: b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := netns.Snapshot{Rules: tt.was}.Differences(netns.Snapshot{Rules: tt.is})
			if diff := cmp.Diff(tt.differences, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlowsNameClientServiceAndBackend(t *testing.T) {
	ns, other := link(t)
	// The first rule that looks at connections turns tracking on.
	nft(t, ns, func(c *nftables.Conn) {
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "track"})
		chain := c.AddChain(&nftables.Chain{
			Table: table, Name: "in", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}})
	})
	listener := listen(t, ns, "10.9.0.1:25")
	var client net.Conn
	other.Do(func() (err error) { client, err = net.Dial("tcp", "10.9.0.1:25"); return err })
	defer func() { _ = client.Close() }()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	got, err := ns.Flows()
	if err != nil {
		t.Fatal(err)
	}
	service := netip.MustParseAddrPort("10.9.0.1:25")
	want := []netns.Flow{{
		Client: netip.MustParseAddrPort(client.LocalAddr().String()), Service: service, Backend: service,
		Replied: true, Assured: true,
	}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
}

func TestWayToTellsTheNeighbourOrThatThereIsNone(t *testing.T) {
	ns, _ := link(t)
	ns.Route("198.51.100.0/24", "10.9.0.2")
	ns.Route("2001:db8:c::/64", "fd09::2")
	tests := []struct {
		to   string
		want string // "" is directly, "none" no way
	}{
		{"10.9.0.2", ""},
		{"198.51.100.10", "10.9.0.2"},
		{"2001:db8:c::10", "fd09::2"},
		{"203.0.113.1", "none"},
		{"2001:db8:d::1", "none"},
	}
	for _, tt := range tests {
		via, err := ns.WayTo(netip.MustParseAddr(tt.to), netip.Addr{})
		got := ""
		switch {
		case errors.Is(err, netns.ErrNoWay):
			got = "none"
		case err != nil:
			t.Error(err)
		case via.IsValid():
			got = via.String()
		}
		if got != tt.want {
			t.Errorf("way to %s = %q, want %q", tt.to, got, tt.want)
		}
	}
}

func listen(t *testing.T, ns *nettest.NS, address string) net.Listener {
	t.Helper()
	var l net.Listener
	ns.Do(func() (err error) { l, err = net.Listen("tcp", address); return err })
	t.Cleanup(func() { _ = l.Close() })
	return l
}
