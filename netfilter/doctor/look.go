package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/netfilter"
)

// Examiner looks at the host that it runs on, in the network namespace of the
// calling thread. Its zero value is ready to use.
type Examiner struct {
	// Root holds the host's files (etc, run, usr/lib); nil is "/".
	Root fs.FS
	// Patience bounds how long backends may take to be connected; 0 means 4 s:
	// the kernel asks three times, a second apart, who has an address.
	Patience time.Duration
	// NftVersion is the version of the host's nft program, "" without one; nil
	// asks it.
	NftVersion func(context.Context) string
}

// Examine looks at all there is, tries to connect to the backends, and judges.
// Its error says that the host could not be looked at.
func (x Examiner) Examine(ctx context.Context, q Question) ([]Finding, error) {
	host, err := look(q)
	if err != nil {
		return nil, fmt.Errorf("look at this host: %w", err)
	}
	root := x.Root
	if root == nil {
		root = os.DirFS("/")
	}
	host.Files = readFiles(root)
	if x.NftVersion == nil {
		x.NftVersion = nftVersion
	}
	host.Files.NftVersion = x.NftVersion(ctx)
	host.readRest()
	if err := host.readRuleset(entire, nil, nil); err != nil {
		host.Unread[ofRules] = unread("other programs' rules", err)
	} else {
		host.Missing = missingFeatures(q)
	}
	host.connect(ctx, append(forwards(q.Splits, host.Here), collectors(q.Splits)...), x.Patience)
	// Who has not answered until now is still asked for, unless it was given up.
	if err := host.readNeighbours(netlink.NUD_FAILED | netlink.NUD_INCOMPLETE); err != nil {
		return nil, fmt.Errorf("look at this host: %w", err)
	}
	return Judge(host, q), nil
}

func unread(what string, err error) string {
	return seen("%s cannot be read: %v", what, err)
}

// Preflight looks at this host before a start or a new definition: what would
// break the splits is an error, what may break them a warning, each with the
// command that cures it. All errors come at once.
func Preflight(q Question) (warnings []string, err error) {
	return beforeChange(q, allButHuge, nil, nil)
}

// Glance is Preflight for who asks often, before each raise and for each
// status: it reads only those chains of other programs that can stand in a
// packet's way, not all for what they do to marks, and those again only where
// they may have changed.
func Glance(q Question, recall *Recall, others Others) (warnings []string, err error) {
	return beforeChange(q, inTheWay, recall, others)
}

func beforeChange(q Question, reach reach, recall *Recall, others Others) (warnings []string, err error) {
	host, err := look(q)
	if err == nil {
		err = host.readRuleset(reach, recall, others)
	}
	if err != nil {
		return nil, fmt.Errorf("look at this host: %w", err)
	}
	return Sentences(judgeStart(host, q))
}

// look reads what every judgement needs.
func look(q Question) (Host, error) {
	h := Host{
		Sysctls: map[string]int{}, Here: map[netip.Addr]bool{}, Ways: map[netip.Addr]Way{}, Devices: map[string]Device{},
		Silent: map[netip.Addr]string{}, Refusals: map[netip.AddrPort]string{}, Unread: map[part]string{},
	}
	names, err := h.readDevices()
	if err != nil {
		return h, err
	}
	socket, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return h, fmt.Errorf("open netlink: %w", err)
	}
	defer socket.Close()
	find := wayfinder{socket: socket, names: names}
	h.Clients4 = h.defaultWay(find, "192.0.2.0", "198.51.100.0", "203.0.113.0")
	h.Clients6 = h.defaultWay(find, "2001:db8::", "3fff::")
	h.readWays(q, find)
	h.readSysctls("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", confAll+"rp_filter", confAll+"send_redirects", confAll+"route_localnet", confAll+"src_valid_mark",
		"net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_acct", "net/netfilter/nf_conntrack_tcp_loose")
	for device := range h.Devices {
		h.readSysctls(conf4(device, "rp_filter"), conf4(device, "send_redirects"), conf4(device, "route_localnet"), conf4(device, "src_valid_mark"), acceptRA(device))
	}
	h.Tracking.Count, h.Tracking.Max = h.sysctl("net/netfilter/nf_conntrack_count"), h.sysctl("net/netfilter/nf_conntrack_max")
	h.Tracking.On = h.Tracking.Count > 0
	h.names = names
	err = errors.Join(h.readNeighbours(netlink.NUD_FAILED), h.readRules(q))
	// A router may have a million routes: they are listed only where they matter.
	if q.hasRoutes() || h.sysctl("net/ipv6/conf/all/forwarding") == 0 {
		err = errors.Join(err, h.readTaken(q, names))
	}
	h.readCounters()
	return h, err
}

// defaultWay is the way to addresses of nobody (RFC 5737, RFC 3849, RFC 9637),
// of which the first is asked that no device of this host has in its network.
func (h *Host) defaultWay(find wayfinder, nobody ...string) Way {
	for _, text := range nobody {
		a := netip.MustParseAddr(text)
		if h.serviceWay(a).Device != "" {
			continue
		}
		if kind, way := find.to(a); kind == unix.RTN_UNICAST {
			return way
		}
	}
	return Way{}
}

func (h *Host) readWays(q Question, find wayfinder) {
	note := func(a netip.Addr) {
		if _, known := h.Here[a]; known || !a.IsValid() {
			return
		}
		kind, way := find.to(a)
		h.Here[a] = kind == unix.RTN_LOCAL
		if way.Device != "" {
			h.Ways[a] = way
		}
	}
	for _, s := range slices.Concat(q.Splits, q.Relayed) {
		for _, a := range s.Service.Addresses {
			note(a)
		}
		note(s.Mirror.To)
		for _, b := range s.Backends() {
			for _, a := range b.Addresses {
				note(a.IP)
			}
		}
	}
	for _, p := range q.Paths {
		note(p.Address)
	}
}

// wayfinder asks the kernel's route tables, all by one socket: a socket for
// each question takes four times as long.
type wayfinder struct {
	socket *netlink.Handle
	names  map[int]string // of devices, by index
}

// to is the way to an address and the kind of its route, RTN_UNSPEC for none.
// RTN_LOCAL is that of this host's own addresses, of those on devices as well as
// of local routes.
func (f wayfinder) to(a netip.Addr) (kind int, way Way) {
	routes, err := f.socket.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return unix.RTN_UNSPEC, Way{}
	}
	r := routes[0]
	return r.Type, Way{Device: f.names[r.LinkIndex], Source: addrOf(r.Src), Gateway: addrOf(r.Gw), MTU: r.MTU}
}

// readDevices returns the devices' names by index.
func (h *Host) readDevices() (names map[int]string, err error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	names = map[int]string{}
	for _, l := range links {
		attrs := l.Attrs()
		names[attrs.Index] = attrs.Name
		h.Devices[attrs.Name] = Device{
			MTU: attrs.MTU, Up: attrs.RawFlags&unix.IFF_UP != 0, Loopback: attrs.RawFlags&unix.IFF_LOOPBACK != 0,
			Ethernet: attrs.EncapType == "ether" && attrs.RawFlags&unix.IFF_NOARP == 0,
		}
	}
	addresses, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_UNSPEC) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		name := names[a.LinkIndex]
		d := h.Devices[name]
		ones, _ := a.Mask.Size()
		d.Networks = append(d.Networks, netip.PrefixFrom(addrOf(a.IP), ones))
		h.Devices[name] = d
	}
	return names, nil
}

// dump repeats a list that the kernel says changed meanwhile
// (NLM_F_DUMP_INTR, netlink(7)).
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 5 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func (h *Host) readSysctls(names ...string) {
	for _, name := range names {
		text, err := os.ReadFile("/proc/sys/" + name) // of the thread's own network namespace
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			h.Sysctls[name] = n
		}
	}
}

// PicksUp says whether connection tracking takes a TCP packet of a flow that it
// does not know into a new flow (nf_conntrack_tcp_loose, the kernel's default).
// Else it calls the packet invalid, and many firewalls drop those. It looks at
// the calling thread's network namespace; what cannot be read is the default.
func PicksUp() bool {
	const name = "net/netfilter/nf_conntrack_tcp_loose"
	h := Host{Sysctls: map[string]int{name: 1}}
	h.readSysctls(name)
	return h.sysctl(name) != 0
}

// readNeighbours takes those in these states for silent.
func (h *Host) readNeighbours(states int) error {
	all, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, 0) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range all {
		if n.State&states != 0 {
			h.Silent[addrOf(n.IP)] = h.names[n.LinkIndex]
		}
	}
	return nil
}

func (h *Host) readRules(q Question) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("list ip rules: %w", err)
		}
		for _, r := range rules {
			rule := ruleOf(r, family)
			if rule.looksAtMark() || rule.in(q.Settings) {
				h.Rules = append(h.Rules, rule)
			}
		}
	}
	return nil
}

// ruleOf is the rule with a text like that of ip-rule(8).
func ruleOf(r netlink.Rule, family int) Rule {
	rule := Rule{Priority: r.Priority, Mark: r.Mark, Mask: ^uint32(0), Table: r.Table, Ours: r.Protocol == netfilter.Protocol}
	if r.Mask != nil {
		rule.Mask = *r.Mask
	}
	words := []string{"ip"}
	if family == unix.AF_INET6 {
		words = append(words, "-6")
	}
	words = append(words, seen("rule pref %d", r.Priority))
	if r.Src != nil {
		words = append(words, "from "+r.Src.String())
	}
	if r.Dst != nil {
		words = append(words, "to "+r.Dst.String())
	}
	if rule.looksAtMark() {
		words = append(words, seen("fwmark 0x%x/0x%x", rule.Mark, rule.Mask))
	}
	rule.Text = strings.Join(append(words, seen("lookup %d", r.Table)), " ")
	return rule
}

// readTaken reads other programs' routes beyond the main table, where tables of
// ours are to judge.
func (h *Host) readTaken(q Question, names map[int]string) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			everywhere := r.Dst == nil
			if r.Dst != nil {
				ones, _ := r.Dst.Mask.Size()
				everywhere = ones == 0
			}
			if r.Table == unix.RT_TABLE_MAIN && everywhere && r.Protocol == unix.RTPROT_RA {
				d := h.Devices[names[r.LinkIndex]]
				d.AdvertisedRoute = true
				h.Devices[names[r.LinkIndex]] = d
			}
			if !q.hasRoutes() || r.Table < q.Settings.RouteTable || r.Protocol == netfilter.Protocol {
				continue
			}
			to := "default"
			if !everywhere {
				to = r.Dst.String()
			}
			if r.Gw != nil {
				to += " via " + r.Gw.String()
			}
			if name := names[r.LinkIndex]; name != "" {
				to += " dev " + name
			}
			h.Taken = append(h.Taken, TakenRoute{Table: r.Table, Default: everywhere && r.Type == unix.RTN_UNICAST, Text: to})
		}
	}
	return nil
}

// readCounters reads what the kernel counts; a text that is missing counts
// nothing.
func (h *Host) readCounters() {
	netstat, snmp := parseCounters(proc("netstat")), parseCounters(proc("snmp"))
	h.Counters = Counters{ReversePathDrops: netstat["TcpExt.IPReversePathFilter"], RedirectsSent: snmp["Icmp.OutRedirects"]}
}

// proc reads /proc/net of the thread's own network namespace.
func proc(name string) string {
	text, _ := os.ReadFile(filepath.Join("/proc/thread-self/net", name))
	return string(text)
}

// readRest reads what only a whole look needs.
func (h *Host) readRest() {
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		h.Release = unix.ByteSliceToString(uts.Release[:])
	}
	h.Tracking.Lost = parseTrackingStat(proc("stat/nf_conntrack"))
	h.Legacy = append(strings.Fields(proc("ip_tables_names")), strings.Fields(proc("ip6_tables_names"))...)
	h.AnyUDP = h.unboundUDP()
	if err := h.readLoops(); err != nil {
		h.Unread[ofTunnels] = unread("tunnels", err)
	}
}

// unboundUDP lists the ports of servers: below those that clients get by
// themselves (ip_local_port_range), without DHCP's own.
func (h *Host) unboundUDP() []uint16 {
	low := 32768
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) == 2 {
			low, _ = strconv.Atoi(fields[0])
		}
	}
	var ports []uint16
	for _, port := range append(parseUnboundUDP(proc("udp")), parseUnboundUDP(proc("udp6"))...) {
		const dhcp, dhcp6 = 68, 546
		if int(port) < low && port != dhcp && port != dhcp6 {
			ports = append(ports, port)
		}
	}
	return ports
}

// nftVersion asks the nft program, if there is one.
func nftVersion(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, "nft", "--version").Output()
	if err != nil {
		return ""
	}
	for word := range strings.FieldsSeq(string(text)) {
		if _, _, ok := parseVersion(word); ok {
			return strings.TrimPrefix(word, "v")
		}
	}
	return ""
}
