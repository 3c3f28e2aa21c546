package netfilter

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

var labSettings = Settings{MarkMask: 0xfff00000, RouteTable: 5300, RulePriority: 5200}

// returnLab is a client, a router that sends its service to the new host, and
// the new host, which has a default route by another router: the wrong way.
//
//	client 192.0.2.100 - 192.0.2.1 router 10.0.0.1 - 10.0.0.12 (.200) new 10.7.0.12 - 10.7.0.1 wrong
type returnLab struct {
	t                          *testing.T
	client, router, host, away *nettest.NS
}

func newReturnLab(t *testing.T) returnLab {
	t.Helper()
	lab := returnLab{
		t: t, client: nettest.New(t, "client"), router: nettest.New(t, "router"),
		host: nettest.New(t, "new"), away: nettest.New(t, "wrong"),
	}
	for _, ns := range []*nettest.NS{lab.client, lab.router, lab.host, lab.away} {
		withoutDAD(ns)
	}
	nettest.Link(t, lab.client, "eth0", []string{"192.0.2.100/24", "2001:db8::100/64"}, lab.router, "eth0", []string{"192.0.2.1/24", "2001:db8::1/64"})
	nettest.Link(t, lab.router, "eth1", []string{"10.0.0.1/24", "fd00::1/64"}, lab.host, "eth0", []string{"10.0.0.12/24", "10.0.0.200/32", "fd00::12/64", "fd00::200/128"})
	nettest.Link(t, lab.host, "eth1", []string{"10.7.0.12/24", "fd07::12/64"}, lab.away, "eth0", []string{"10.7.0.1/24", "fd07::1/64"})
	eventuallyUp(t, lab.client, lab.router, lab.host, lab.away)
	lab.client.Route("0.0.0.0/0", "192.0.2.1")
	lab.client.Route("::/0", "2001:db8::1")
	lab.router.Sysctl("net/ipv4/ip_forward", "1")
	lab.router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	return lab
}

// withoutDAD makes link-local addresses usable at once (no duplicate address
// detection) on the devices to come.
func withoutDAD(ns *nettest.NS) { ns.Sysctl("net/ipv6/conf/default/dad_transmits", "0") }

// eventuallyUp waits until the kernel has noticed every carrier and has put
// the addresses and routes in place that come with it.
func eventuallyUp(t *testing.T, all ...*nettest.NS) {
	t.Helper()
	for _, ns := range all {
		var waiting []string
		nettest.Eventually(t, "all devices are up", func() bool {
			waiting = nil
			ns.Do(func() error {
				links, err := dump(netlink.LinkList)
				if err != nil {
					return err
				}
				for _, link := range links {
					addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, unix.AF_INET6) })
					if err != nil {
						return err
					}
					tentative := slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
					a := link.Attrs()
					if a.Name != "lo" && (a.OperState != netlink.OperUp || tentative || !hasLinkLocal(addresses)) {
						waiting = append(waiting, a.Name)
					}
				}
				return nil
			})
			return len(waiting) == 0
		}, func() any { return waiting })
	}
}

func hasLinkLocal(addresses []netlink.Addr) bool {
	return slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() })
}

// wrongWay gives the new host a default route by the wrong router.
func (lab returnLab) wrongWay() {
	lab.t.Helper()
	lab.host.Route("0.0.0.0/0", "10.7.0.1")
	lab.host.Route("::/0", "fd07::1")
}

// translate makes the router send its own addresses, any TCP port, to the new
// host's, with a rule made by hand.
func (lab returnLab) translate(to ...string) {
	lab.t.Helper()
	lab.router.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "byhand"})
		chain := conn.AddChain(&nftables.Chain{
			Name: "pre", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		for _, text := range to {
			a := netip.MustParseAddr(text)
			service := netip.MustParseAddr("192.0.2.1")
			if a.Is6() {
				service = netip.MustParseAddr("2001:db8::1")
			}
			exprs := append(destination{ip: service}.expressions(), ofTransport(traffic.TCP)...)
			exprs = append(exprs, translate{to: a}.expressions()...)
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		}
		return conn.Flush()
	})
}

// serve answers each connection to the new host with the client's address as
// the server sees it.
func (lab returnLab) serve(port string) {
	lab.t.Helper()
	lab.host.Serve("tcp", ":"+port, func(c net.Conn) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		_, _ = io.WriteString(c, host)
	})
}

// How long a connection that must come and one that must not are waited for.
// The kernel sends a second SYN, and asks for a neighbour again, after 1 s.
const (
	mustCome = 5 * time.Second
	mustNot  = 700 * time.Millisecond
)

// ask connects from ns and returns the client's address as the server saw it.
func (lab returnLab) ask(ns *nettest.NS, address string, within time.Duration) (string, error) {
	var seen string
	err := ns.NS.Do(func() error {
		dialer := net.Dialer{Timeout: within}
		c, err := dialer.DialContext(lab.t.Context(), "tcp", address)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		text, err := io.ReadAll(c)
		seen = string(text)
		return err
	})
	return seen, err
}

// reaches fails the test unless ns reaches the address and is seen as itself.
func (lab returnLab) reaches(ns *nettest.NS, address, as string) {
	lab.t.Helper()
	if seen, err := lab.ask(ns, address, mustCome); seen != as || err != nil {
		lab.t.Errorf("%s to %s: the server saw %q, %v; want %q", ns.Name, address, seen, err, as)
	}
}

func (lab returnLab) fails(ns *nettest.NS, address string) {
	lab.t.Helper()
	seen, err := lab.ask(ns, address, mustNot)
	if err == nil {
		lab.t.Errorf("%s to %s: answered %q, want no connection", ns.Name, address, seen)
		return
	}
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		lab.t.Errorf("%s to %s: %v, want a timeout", ns.Name, address, err)
	}
}

// apply brings the new host to the paths and says whether that changed it.
func (lab returnLab) apply(paths ...traffic.ReturnPath) bool {
	lab.t.Helper()
	want, err := BuildReturns(paths, labSettings)
	if err != nil {
		lab.t.Fatal(err)
	}
	var changed bool
	lab.host.Do(func() (err error) { changed, err = applyReturns(lab.t.Context(), want); return err })
	return changed
}

func (lab returnLab) cleanup() {
	lab.t.Helper()
	lab.host.Do(func() error { return cleanupReturns(lab.t.Context(), labSettings, nil) })
}

func (lab returnLab) setLink(ns *nettest.NS, up bool) {
	lab.t.Helper()
	ns.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
}

// byAddress and byMark are the two ways to know the replies, of both families.
func byAddress() []traffic.ReturnPath {
	return []traffic.ReturnPath{
		{Name: "four", Via: netip.MustParseAddr("10.0.0.1"), Device: "eth0", Match: traffic.MatchAddress, Address: netip.MustParseAddr("10.0.0.200")},
		{Name: "six", Via: netip.MustParseAddr("fd00::1"), Device: "eth0", Match: traffic.MatchAddress, Address: netip.MustParseAddr("fd00::200")},
	}
}

func byMark(ports ...traffic.Port) []traffic.ReturnPath {
	return []traffic.ReturnPath{
		{Name: "four", Via: netip.MustParseAddr("10.0.0.1"), Device: "eth0", Match: traffic.MatchMark, Ports: ports},
		{Name: "six", Via: netip.MustParseAddr("fd00::1"), Device: "eth0", Match: traffic.MatchMark, Ports: ports},
	}
}

// countLeaks counts the TCP packets that come to the wrong router from now on.
func (lab returnLab) countLeaks() func() uint64 {
	lab.t.Helper()
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "leaks"}
	lab.away.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddTable(table)
		chain := conn.AddChain(&nftables.Chain{
			Name: "pre", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(ofTransport(traffic.TCP), &expr.Counter{})})
		return conn.Flush()
	})
	return func() uint64 {
		var packets uint64
		lab.away.Do(func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			rules, err := conn.GetRules(table, &nftables.Chain{Name: "pre", Table: table})
			if err != nil {
				return err
			}
			for _, e := range rules[0].Exprs {
				if c, ok := e.(*expr.Counter); ok {
					packets = c.Packets
				}
			}
			return nil
		})
		return packets
	}
}

func (lab returnLab) readMarks() markState {
	lab.t.Helper()
	var m markState
	lab.host.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		m, err = readMarks(conn)
		return err
	})
	return m
}
