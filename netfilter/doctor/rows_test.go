package doctor

import (
	"io/fs"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// fault is something that is really wrong with a host.
type fault struct {
	row      string
	newHost  bool // there, else on the router
	question Question
	breakIt  func(*lab)
	files    fs.FS
	level    Level
	seen     string // a part of it
	cure     string // the whole of it; "" is not compared
}

func set(where func(*lab) *nettest.NS, name, value string) func(*lab) {
	return func(l *lab) { where(l).Sysctl(name, value) }
}
func onRouter(l *lab) *nettest.NS  { return l.router }
func onNewHost(l *lab) *nettest.NS { return l.new }

func rules(where func(*lab) *nettest.NS, write func(*nftables.Conn)) func(*lab) {
	return func(l *lab) { where(l).ChangeRuleset(write) }
}

func faults() []fault {
	mx := about([]traffic.Split{half()}, nil)
	gap, local, other, relayed := half(), half(), half(), half()
	relayed.SamplePort, relayed.Sample = 15_000, 100_000
	other.Name = "web"
	local.LocalClients = true
	gap.Candidates[0].Addresses = gap.Candidates[0].Addresses[:1]
	loopback4, loopback6 := half(), half()
	loopback4.Service.Addresses = loopback4.Service.Addresses[:0:0]
	loopback4.Service.Addresses = append(loopback4.Service.Addresses, addr("127.0.0.1"))
	loopback6.Service.Addresses = append(loopback6.Service.Addresses[:0:0], addr("::1"))
	to := func(address string) Question {
		s := half()
		s.Candidates[0].Addresses = []traffic.Address{{IP: addr(address)}}
		s.Service.Addresses = s.Service.Addresses[:1]
		return about([]traffic.Split{s}, nil)
	}
	mirror := func(address string) Question {
		s := half()
		s.Mirror = traffic.Mirror{To: addr(address), Sample: traffic.Whole}
		return about([]traffic.Split{s}, nil)
	}
	policy := to("192.0.2.100")
	policy.Splits[0].Return = traffic.ReturnPolicy
	ways := policy
	dns := traffic.Port{Number: 53, Transport: traffic.UDP}
	paths := func(p ...traffic.ReturnPath) Question { return about(nil, p) }
	through := func(via string) traffic.ReturnPath {
		return traffic.ReturnPath{Name: "x", Device: "eth0", Via: addr(via), Match: traffic.MatchAddress, Address: addr("10.0.0.200")}
	}
	alias := byAddress()[0]
	shared := alias
	shared.Address = addr("10.0.0.12")
	return []fault{
		{row: "family-gap", question: about([]traffic.Split{gap}, nil), level: LevelError, seen: `backend "new" has no address of the family of service address 2001:db8::25`},
		{row: "other-family", question: behind("192.0.2.0/24"), level: LevelWarning, seen: `split "mx" is transparent and its proxies (accept_proxy) connect by IPv4 alone: every IPv6 client that a PROXY header names is reset`, cure: "proxy: {transparent: false, send_proxy: v2}"},
		{row: "other-family", question: behind("2001:db8::/64"), level: LevelWarning, seen: "connect by IPv6 alone: every IPv4 client"},
		{row: "other-family", question: behind("192.0.2.0/24", "2001:db8::/64"), level: LevelNote, seen: "is reset where its address is of the other family"},
		{row: "loopback-service", question: about([]traffic.Split{loopback4}, nil), level: LevelError, seen: "127.0.0.1 is a loopback address and route_localnet is off", cure: "sysctl -w net.ipv4.conf.all.route_localnet=1"},
		{row: "loopback-service", question: about([]traffic.Split{loopback4}, nil), breakIt: set(onRouter, "net/ipv4/conf/all/route_localnet", "1"), level: LevelError, seen: "the clients' addresses are kept", cure: "return: masquerade"},
		{row: "loopback-service", question: about([]traffic.Split{loopback6}, nil), level: LevelError, seen: "::1 cannot be sent to fd00::12"},
		{row: "forwarding-off", question: mx, breakIt: set(onRouter, "net/ipv4/ip_forward", "0"), level: LevelError, seen: "does not forward IPv4", cure: "sysctl -w net.ipv4.ip_forward=1"},
		{row: "service-elsewhere", question: mx, breakIt: func(l *lab) {
			onDevice(l.t, l.router, "eth0", func(link netlink.Link) error {
				return netlink.AddrDel(link, &netlink.Addr{IPNet: network("192.0.2.25/24")})
			})
		}, level: LevelWarning, seen: "192.0.2.25 is not on this host"},
		{row: "backend-no-route", question: to("203.0.113.9"), breakIt: func(l *lab) {
			l.router.Do(func() error { return netlink.RouteDel(&netlink.Route{Dst: network("0.0.0.0/0")}) })
		}, level: LevelWarning, seen: "no route to 203.0.113.9", cure: "ip route get 203.0.113.9"},
		{row: "backend-silent", question: to("10.0.0.77"), level: LevelWarning, seen: `10.0.0.77 of backend "new" cannot be reached`, cure: "ip neighbour show to 10.0.0.77"},
		{row: "backend-silent", question: to("10.0.0.200"), level: LevelWarning, seen: "connection refused", cure: "nc -vz 10.0.0.200 25"},
		{row: "mirror-target", question: mirror("10.0.0.77"), level: LevelWarning, seen: "the collector 10.0.0.77 does not answer on eth1", cure: "ip neighbour show to 10.0.0.77"},
		{row: "mirror-target", question: mirror("198.51.100.7"), level: LevelWarning, seen: "the collector 198.51.100.7 is not on a link of this host, but behind 192.0.2.1"},
		{row: "mirror-target", question: mirror("10.0.0.1"), level: LevelWarning, seen: "the collector 10.0.0.1 is an address of this host"},
		{row: "mirror-target", question: mirror("203.0.113.9"), breakIt: func(l *lab) {
			l.router.Do(func() error { return netlink.RouteDel(&netlink.Route{Dst: network("0.0.0.0/0")}) })
		}, level: LevelWarning, seen: "no route to the collector 203.0.113.9", cure: "ip route get 203.0.113.9"},
		{row: "way-back", question: ways, level: LevelNote, seen: `no flow has shown yet that replies of "new" (192.0.2.100) come back`, cure: "ip route get CLIENT from 192.0.2.100"},
		{row: "first-dnat-wins", question: mx, breakIt: func(l *lab) { foreignNAT(-110, 25)(l.t, l.router) }, level: LevelWarning, seen: "takes 192.0.2.25 . tcp . 25"},
		{row: "first-dnat-wins", question: about([]traffic.Split{local}, nil), breakIt: rules(onRouter, func(c *nftables.Conn) {
			newRuleset(c, nftables.TableFamilyIPv4, "nat").hook("OUTPUT", nftables.ChainTypeNAT, nftables.ChainHookOutput, -110, anyPolicy, join(toAddress4("192.0.2.25"), translateToOther(0)))
		}), level: LevelWarning, seen: "takes 192.0.2.25 . tcp . 25"},
		{row: "forward-drop", question: mx, breakIt: func(l *lab) { foreignForward()(l.t, l.router) }, level: LevelWarning, seen: "chain fwd of table inet fw drops", cure: "nft insert rule inet fw fwd ct status dnat accept"},
		{row: "forward-drop", question: about([]traffic.Split{half(), other}, nil), breakIt: func(l *lab) { foreignForward()(l.t, l.router) }, level: LevelWarning, seen: `split "mx" (and 1 more): chain fwd`},
		{row: "input-skipped", question: mx, breakIt: rules(onRouter, func(c *nftables.Conn) {
			newRuleset(c, nftables.TableFamilyINet, "fw").hook("in", nftables.ChainTypeFilter, nftables.ChainHookInput, 0, nftables.ChainPolicyAccept,
				join(inState(establishedRelated), accept()),
				join(fromNetwork("203.0.113.0/24"), drop()),
				join(toPort(26), drop()),
				join(toPort(25), []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: 10, Unit: expr.LimitTimeSecond, Over: true}}, drop()))
		}), level: LevelNote, seen: "skips 2 rules that drop or limit in chain in of table inet fw (policy accept): ip saddr 203.0.113.0/24 drop; dport 25 limit rate over 10/second drop"},
		{row: "rp-filter-router", question: mx, breakIt: set(onRouter, "net/ipv4/conf/eth0/rp_filter", "1"), level: LevelWarning, seen: "rp_filter is strict on eth0 and replies of 10.0.0.12 are dropped there: they have to come in by eth1", cure: "sysctl -w net.ipv4.conf.all.rp_filter=2"},
		{row: "relay-replies", question: aboutRelay(), breakIt: set(onRouter, "net/ipv4/conf/all/src_valid_mark", "1"), level: LevelError, seen: "drops what backend \"new\" (10.0.0.12) answers by eth1", cure: "sysctl -w net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.eth1.src_valid_mark=0"},
		{row: "path-mtu", question: mx, breakIt: func(l *lab) {
			onDevice(l.t, l.router, "eth1", func(link netlink.Link) error { return netlink.LinkSetMTU(link, 1400) })
		}, level: LevelWarning, seen: "by eth1 may have 1400 bytes, those of clients 1500"},
		{row: "hairpin", question: to("192.0.2.100"), level: LevelWarning, seen: "on the same link as clients (192.0.2.0/24 on eth0)"},
		{row: "hairpin", question: policy, level: LevelWarning, seen: "this host sends ICMP redirects", cure: "sysctl -w net.ipv4.conf.all.send_redirects=0 net/ipv4/conf/eth0/send_redirects=0"},
		{row: "conntrack-begins", question: mx, level: LevelNote, seen: "connection tracking is turned on for all traffic of this host"},
		{row: "conntrack-accounting", question: mx, breakIt: set(onRouter, "net/netfilter/nf_conntrack_acct", "0"), level: LevelNote, seen: "the bytes of flows are unknown"},
		{row: "conntrack-loose", question: mx, breakIt: set(onRouter, "net/netfilter/nf_conntrack_tcp_loose", "1"), level: LevelNote, seen: "picked up in its middle"},
		{row: "mark-collision", question: mx, breakIt: rules(onRouter, func(c *nftables.Conn) {
			newRuleset(c, nftables.TableFamilyINet, "qos").hook("pre", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150, anyPolicy, setFlowMark(0xf0000000, 0x10000000))
		}), level: LevelWarning, seen: "changes conntrack mark bits 0xf0000000, of which 0xf0000000 are splitd's: table inet qos, chain pre", cure: "netfilter: {mark_mask: 0x0fff0000}"},
		{row: "mark-collision", question: mx, breakIt: func(l *lab) {
			l.router.Do(func() error {
				r := netlink.NewRule()
				r.Priority, r.Table, r.Mark, r.Mask = 900, 99, 0x53100000, new(uint32(0xfff00000))
				return netlink.RuleAdd(r)
			})
		}, level: LevelWarning, seen: "ip rule pref 900 fwmark 0x53100000/0xfff00000 lookup 99"},
		{row: "mark-collision", question: mx, breakIt: rules(onRouter, func(c *nftables.Conn) { // tailscale's mask reaches into the generation
			newRuleset(c, nftables.TableFamilyIPv4, "mangle").hook("PREROUTING", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150, anyPolicy, setFlowMark(0xff0000, 0x80000))
		}), level: LevelNote, seen: "changes conntrack mark bits 0x00ff0000, of which 0x00f00000 are splitd's", cure: "netfilter: {mark_mask: 0xff000000}"},
		{row: "tunnel-loop", question: mx, breakIt: loopTunnel, level: LevelError, seen: "packets of tunnel vx0 to its far end 10.0.0.12 are led into the tunnel again by `ip rule pref 900 fwmark 0x1/0x1 lookup 99`", cure: "ip rule add pref 890 to 10.0.0.12 lookup main"},
		{row: "saved-ruleset", question: mx, files: fstest.MapFS{"etc/nftables.conf": file(savedRuleset)}, level: LevelWarning, seen: "/etc/nftables.conf holds 2 of splitd's own tables", cure: "sed -i -E '/^table (inet|ip|ip6) splitd/,/^}/d' /etc/nftables.conf"},

		{row: "return-path-device", newHost: true, question: paths(traffic.ReturnPath{Name: "x", Device: "eth9", Match: traffic.MatchAddress, Address: addr("10.0.0.200")}), level: LevelWarning, seen: `there is no device "eth9"`},
		{row: "return-path-via", newHost: true, question: paths(through("10.9.9.9")), level: LevelWarning, seen: `return path "x": via 10.9.9.9 is on no network of eth0`, cure: "ip address show dev eth0"},
		{row: "return-path-via", newHost: true, question: paths(through("10.0.0.99")), breakIt: func(l *lab) {
			onDevice(l.t, l.new, "eth0", func(link netlink.Link) error { // as after a reply
				return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP("10.0.0.99"), State: netlink.NUD_FAILED})
			})
		}, level: LevelWarning, seen: `return path "x": nobody on eth0 answers for via 10.0.0.99`, cure: "ip neighbour show to 10.0.0.99"},
		{row: "return-path-via", newHost: true, question: paths(traffic.ReturnPath{Name: "x", Device: "eth0", Match: traffic.MatchAddress, Address: addr("10.0.0.200")}), level: LevelWarning, seen: `return path "x" has no via, and eth0 is a link with neighbours`, cure: "via: ADDRESS"},
		{row: "return-path-address", newHost: true, question: paths(traffic.ReturnPath{Name: "x", Device: "eth0", Match: traffic.MatchAddress, Address: addr("10.0.0.201")}), level: LevelWarning, seen: "10.0.0.201 is not on this host", cure: "ip address add 10.0.0.201/32 dev eth0"},
		{row: "rp-filter-new-host", newHost: true, question: paths(byMark()...), breakIt: set(onNewHost, "net/ipv4/conf/eth0/rp_filter", "1"), level: LevelWarning, seen: "rp_filter is strict on eth0", cure: "sysctl -w net/ipv4/conf/eth0/rp_filter=2"},
		{row: "no-route-to-clients", newHost: true, question: paths(byMark()...), breakIt: func(l *lab) {
			l.new.Do(func() error { return netlink.RouteDel(&netlink.Route{Dst: network("0.0.0.0/0")}) })
		}, level: LevelWarning, seen: "has no route to clients", cure: "ip route add default via 10.0.0.1 dev eth0 metric 9999"},
		{row: "wildcard-udp", newHost: true, question: paths(byMark(dns)...), breakIt: serveUDP, level: LevelWarning, seen: "the UDP server on port 53 is bound to no address and answers from 10.0.0.12"},
		{row: "wildcard-udp", newHost: true, question: paths(alias), breakIt: serveUDP, level: LevelNote, seen: "the UDP server on port 53 is bound to no address and answers from 10.0.0.12"},
		{row: "shared-alias", newHost: true, question: paths(byAddress()[1]), breakIt: func(l *lab) {
			onDevice(l.t, l.new, "eth0", func(link netlink.Link) error {
				return netlink.AddrReplace(link, &netlink.Addr{IPNet: network("fd00::200/128"), PreferedLft: 1 << 29, ValidLft: 1 << 30})
			})
		}, level: LevelWarning, seen: "fd00::200 is also the address", cure: "ip address change fd00::200/128 dev eth0 preferred_lft 0"},
		{row: "shared-alias", newHost: true, question: paths(shared), level: LevelWarning, seen: "10.0.0.12 is also the address from which this host's own connections come"},
		{row: "route-table-taken", newHost: true, question: paths(alias), breakIt: takeTable(onNewHost, "eth0", 5300, "0.0.0.0/0", "10.0.0.1"), level: LevelError, seen: `return path "four": another program has the default route in table 5300: default via 10.0.0.1 dev eth0`, cure: "netfilter: {route_table: 5316}"},
		{row: "route-table-taken", newHost: true, question: paths(alias), breakIt: takeTable(onNewHost, "eth0", 5300, "198.51.100.0/24", "10.0.0.1"), level: LevelWarning, seen: "another program has a route in table 5300, which is splitd's: 198.51.100.0/24 via 10.0.0.1 dev eth0"},
		{row: "route-table-taken", question: about([]traffic.Split{relayed}, nil), breakIt: takeTable(onRouter, "eth1", 5315, "0.0.0.0/0", "10.0.0.12"), level: LevelError, seen: "what relays take: another program has the default route in table 5315: default via 10.0.0.12 dev eth1", cure: "netfilter: {route_table: 5316}"},
		{row: "route-table-taken", question: about([]traffic.Split{relayed}, nil), breakIt: takeTable(onRouter, "eth1", 5315, "198.51.100.0/24", "10.0.0.12"), level: LevelWarning, seen: "another program has a route in table 5315, which is splitd's: 198.51.100.0/24 via 10.0.0.12 dev eth1"},
		{row: "route-table-taken", newHost: true, question: paths(alias), breakIt: func(l *lab) {
			l.new.Do(func() error {
				r := netlink.NewRule()
				r.Priority, r.Table, r.Src = 5201, 99, network("10.0.0.200/32")
				return netlink.RuleAdd(r)
			})
		}, level: LevelWarning, seen: "is splitd's: ip rule pref 5201 from 10.0.0.200/32 lookup 99", cure: "netfilter: {route_table: 5300, rule_priority: 5220}"},
		{row: "networkd-rules", newHost: true, question: paths(alias), files: fstest.MapFS{"run/systemd/netif/state": file("")}, level: LevelWarning, seen: "ManageForeignRoutingPolicyRules=no and ManageForeignRoutes=no is missing"},
	}
}

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

const savedRuleset = `flush ruleset
table inet filter {
	chain input { type filter hook input priority 0; }
}
table inet splitd {
	chain split/mx {
	}
}
table inet splitd_return {
}
`

func loopTunnel(l *lab) {
	l.router.Sysctl("net/ipv6/conf/default/addr_gen_mode", "1") // no address that comes later by itself
	l.router.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "vx0"
		if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, Group: net.ParseIP("10.0.0.12"), Port: 4789}); err != nil {
			return err
		}
		link, err := netlink.LinkByName("vx0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		if err := netlink.RouteAdd(&netlink.Route{Dst: network("0.0.0.0/0"), LinkIndex: link.Attrs().Index, Table: 99, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		r := netlink.NewRule()
		r.Priority, r.Table, r.Mark, r.Mask = 900, 99, 1, new(uint32(1))
		return netlink.RuleAdd(r)
	})
}

func serveUDP(l *lab) {
	l.new.Do(func() error {
		c, err := net.ListenPacket("udp4", ":53")
		if err == nil {
			l.t.Cleanup(func() { _ = c.Close() })
		}
		return err
	})
}

// takeTable puts another program's route into a table that is to be ours.
func takeTable(on func(*lab) *nettest.NS, device string, table int, to, via string) func(*lab) {
	return func(l *lab) {
		onDevice(l.t, on(l), device, func(link netlink.Link) error {
			return netlink.RouteAdd(&netlink.Route{Table: table, Dst: network(to), Gw: net.ParseIP(via), LinkIndex: link.Attrs().Index, Protocol: unix.RTPROT_STATIC})
		})
	}
}

func TestEachFaultOfAHostIsFoundInTheKernel(t *testing.T) {
	t.Parallel()
	for _, test := range faults() {
		t.Run(test.row+"/"+test.seen, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			if test.breakIt != nil {
				test.breakIt(l)
			}
			host := l.router
			if test.newHost {
				host = l.new
			}
			before := snapshotText(t, host)
			found := of(examine(t, host, test.question, test.files), test.row)
			i := slices.IndexFunc(found, func(f Finding) bool { return strings.Contains(f.Seen, test.seen) })
			if i < 0 {
				t.Fatalf("found %+v, want %q", found, test.seen)
			}
			f := found[i]
			if f.Level != test.level || test.cure != "" && f.Cure != test.cure {
				t.Errorf("found %s with the cure %q, want %s with %q", f.Level, f.Cure, test.level, test.cure)
			}
			if f.Why == "" || f.Where == "" {
				t.Errorf("%+v does not say why it matters, or where", f)
			}
			if after := snapshotText(t, host); after != before {
				t.Error("the look changed the host")
			}
		})
	}
}

func TestNothingIsFoundOnAHostWithoutFault(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll()
	l.apply(half())
	for name, test := range map[string]struct {
		host     *nettest.NS
		question Question
	}{
		"router":            {l.router, about([]traffic.Split{half()}, nil)},
		"new host, address": {l.new, about(nil, byAddress())},
		"new host, mark":    {l.new, about(nil, byMark(traffic.Port{Number: 25, Transport: traffic.TCP}))},
		"nothing asked":     {l.new, about(nil, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			found := examine(t, test.host, test.question, nil)
			if len(found) != len(rows()) {
				t.Errorf("%d findings for %d rows", len(found), len(rows()))
			}
			for _, f := range found {
				// The first look at a host without our rules tells what they begin,
				// and a kernel before 6.9 that it keeps no tables.
				if f.Level != LevelOK && f.ID != "conntrack-begins" && (f.ID != "kernel-features" || f.Level != LevelNote) {
					t.Errorf("found %+v", f)
				}
			}
		})
	}
}

// judgedAlone are the rows that are not in the table of faults, since no namespace
// of this test can have theirs: each has a test of its own, on given values or in
// a lab of its own.
var judgedAlone = []string{
	"unread", "kernel-features", "iptables-legacy", "conntrack-full", "nft-listing", "ruleset-reload", "router-advertisements", "shadow-certificates", "shadow-encrypted",
}

func TestEveryRowIsTested(t *testing.T) {
	for _, r := range rows() {
		tested := slices.ContainsFunc(faults(), func(f fault) bool { return f.row == r.id })
		if tested == slices.Contains(judgedAlone, r.id) {
			t.Errorf("row %q: in the table of faults: %v, tested alone: %v", r.id, tested, !tested)
		}
	}
}

// Packets have the class alone: nobody looks at the bits beside it.
func TestMarksOfOthersBesideOursAreNoCollision(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.router.ChangeRuleset(func(c *nftables.Conn) {
		newRuleset(c, nftables.TableFamilyIPv4, "mangle").hook("PREROUTING", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150, anyPolicy,
			setPacketMark(0x3f00, 0x100), setFlowMark(0x3f00, 0x100),
			// -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00
			[]expr.Any{&expr.Target{Name: "CONNMARK", Rev: 1, Info: connmark(0x3f00, connmarkSave)}},
			// -j MARK --set-xmark 0x40000/0xc0000
			[]expr.Any{&expr.Target{Name: "MARK", Rev: 2, Info: words(0x40000, 0xc0000)}},
			// as tailscale's ts-forward: the packet's mark has no generation
			setPacketMark(0xff0000, 0xf40000))
	})
	for _, f := range of(examine(t, l.router, about([]traffic.Split{half()}, nil), nil), "mark-collision") {
		if f.Level != LevelOK {
			t.Errorf("found %+v", f)
		}
	}
}

// connmark is struct xt_connmark_tginfo1 with one mask for both marks.
func connmark(mask uint32, mode byte) *xt.Unknown {
	raw := append(*words(0, mask, mask), mode, 0, 0, 0)
	return &raw
}

func TestARestoredMarkWithoutAMaskIsACollision(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.router.ChangeRuleset(func(c *nftables.Conn) {
		newRuleset(c, nftables.TableFamilyIPv4, "mangle").hook("PREROUTING", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150, anyPolicy,
			[]expr.Any{&expr.Target{Name: "CONNMARK", Rev: 1, Info: connmark(^uint32(0), connmarkSave)}})
	})
	found := of(examine(t, l.router, about([]traffic.Split{half()}, nil), nil), "mark-collision")
	if len(found) != 1 || !strings.Contains(found[0].Seen, "changes conntrack mark bits 0xffffffff, of which 0xfff00000 are splitd's: table ip mangle, chain PREROUTING") {
		t.Errorf("found %+v", found)
	}
	if found[0].Cure != "nft -a list ruleset" && !strings.Contains(found[0].Advice(), "mark_mask") {
		t.Errorf("advice %q", found[0].Advice())
	}
}
