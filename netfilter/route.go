package netfilter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// rtaNexthop is RTA_NH_ID of linux/rtnetlink.h: the route uses a nexthop object.
const rtaNexthop = 30

// kernelRule is an ip rule of ours as the kernel has it.
type kernelRule struct {
	ipRule
	odd bool // it says more than an ipRule can
	raw netlink.Rule
}

// kernelRoute is a route of ours as the kernel has it.
type kernelRoute struct {
	ipRoute
	odd  bool // it says more than an ipRoute can, or less
	dst  netip.Prefix
	kind int
}

// readRules returns the rules that are ours. The protocol alone says so:
// priorities and tables may have been others before.
func readRules() ([]kernelRule, error) {
	var ours []kernelRule
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s rules: %w", ipCommand(family), err)
		}
		for _, raw := range rules {
			if raw.Protocol == Protocol {
				ours = append(ours, parseRule(raw))
			}
		}
	}
	return ours, nil
}

// dump asks again when the kernel's tables changed while it was answering.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 16
	var values []T
	var err error
	for range tries {
		values, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return values, err
		}
	}
	return nil, err
}

func parseRule(raw netlink.Rule) kernelRule {
	r := kernelRule{raw: raw, ipRule: ipRule{priority: raw.Priority, family: raw.Family, table: raw.Table, mark: raw.Mark}}
	if raw.Mask != nil {
		r.mask = *raw.Mask
	}
	var fromOK, toOK bool
	r.from, fromOK = parseHost(raw.Src)
	r.to, toOK = parseHost(raw.Dst)
	if p := raw.Sport; p != nil && p.Start == p.End {
		r.sport = p.Start
	}
	r.odd = !fromOK || !toOK || raw.Invert || raw.Tos != 0 || raw.TunID != 0 || raw.Goto >= 0 || raw.Flow >= 0 ||
		raw.IifName != "" || raw.OifName != "" || raw.SuppressIfgroup >= 0 || raw.SuppressPrefixlen >= 0 ||
		raw.Dport != nil || raw.Sport != nil && r.sport == 0 || raw.IPProto != 0 || raw.UIDRange != nil
	return r
}

// parseHost reads a prefix of one address; none is good as well.
func parseHost(n *net.IPNet) (netip.Addr, bool) {
	if n == nil {
		return netip.Addr{}, true
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, size := n.Mask.Size()
	return a, ok && ones == size
}

func (r ipRule) netlink() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Protocol = r.family, r.priority, r.table, Protocol
	if r.from.IsValid() {
		rule.Src = host(r.from)
	}
	if r.sport != 0 {
		rule.Sport = netlink.NewRulePortRange(r.sport, r.sport)
	}
	if r.to.IsValid() {
		rule.Dst = host(r.to)
	}
	if r.mask != 0 {
		rule.Mark, rule.Mask = r.mark, &r.mask
	}
	return rule
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// add makes the rule; that it is there already is good.
func (r ipRule) add() error {
	if err := netlink.RuleAdd(r.netlink()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add rule %q: %w", r.command("add"), err)
	}
	return nil
}

// remove takes the rule away; that it is gone already is good.
func (r kernelRule) remove() error {
	if err := netlink.RuleDel(&r.raw); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove rule %q: %w", r.command("del"), err)
	}
	return nil
}

// readRoutes returns the routes that are ours, of all tables, by protocol.
func readRoutes() ([]kernelRoute, error) {
	var ours []kernelRoute
	names := map[uint32]string{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		messages, err := dump(func() ([][]byte, error) { return dumpRoutes(family) })
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s routes: %w", ipCommand(family), err)
		}
		for _, message := range messages {
			route, err := parseRoute(message, names)
			if err != nil {
				return nil, fmt.Errorf("read %s route: %w", ipCommand(family), err)
			}
			if route != nil {
				ours = append(ours, *route)
			}
		}
	}
	return ours, nil
}

// dumpRoutes lists the routes of our protocol. The kernel filters
// (NETLINK_GET_STRICT_CHK, 4.20): the main table of a router may hold a million
// others, which it passes over in 80 ms.
func dumpRoutes(family int) ([][]byte, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	if err := unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return nil, fmt.Errorf("filter routes (kernel 4.20 or newer is needed): %w", err)
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	request.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family), Protocol: Protocol}})
	return request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWROUTE)
}

// parseRoute reads a route message; nil means that the route is not ours.
func parseRoute(message []byte, names map[uint32]string) (*kernelRoute, error) {
	msg := nl.DeserializeRtMsg(message)
	if msg.Protocol != Protocol {
		return nil, nil
	}
	attributes, err := nl.ParseRouteAttr(message[msg.Len():])
	if err != nil {
		return nil, err
	}
	bits := 32
	if msg.Family == unix.AF_INET6 {
		bits = 128
	}
	r := &kernelRoute{kind: int(msg.Type), ipRoute: ipRoute{table: int(msg.Table), family: int(msg.Family)}}
	r.blackhole = msg.Type == unix.RTN_BLACKHOLE
	r.local = msg.Type == unix.RTN_LOCAL
	r.odd = msg.Dst_len != 0 || msg.Src_len != 0 || msg.Tos != 0 || !r.blackhole && !r.local && msg.Type != unix.RTN_UNICAST
	dst := netip.IPv4Unspecified()
	if bits == 128 {
		dst = netip.IPv6Unspecified()
	}
	for _, a := range attributes {
		dst = r.readAttribute(a, dst, names)
	}
	r.dst = netip.PrefixFrom(dst, int(msg.Dst_len))
	return r, nil
}

func (r *kernelRoute) readAttribute(a syscall.NetlinkRouteAttr, dst netip.Addr, names map[uint32]string) netip.Addr {
	switch a.Attr.Type {
	case unix.RTA_TABLE:
		r.table = int(nl.NativeEndian().Uint32(a.Value))
	case unix.RTA_PRIORITY:
		r.metric = int(nl.NativeEndian().Uint32(a.Value))
	case unix.RTA_GATEWAY:
		r.via, _ = netip.AddrFromSlice(a.Value)
	case unix.RTA_OIF:
		if !r.blackhole { // IPv6 says lo
			r.device = deviceName(nl.NativeEndian().Uint32(a.Value), names)
		}
	case unix.RTA_DST:
		if to, ok := netip.AddrFromSlice(a.Value); ok {
			return to
		}
	case unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_VIA, unix.RTA_PREFSRC, rtaNexthop:
		r.odd = true
	}
	return dst
}

func deviceName(index uint32, names map[uint32]string) string {
	if name, known := names[index]; known {
		return name
	}
	names[index] = "#" + strconv.Itoa(int(index))
	if link, err := netlink.LinkByIndex(int(index)); err == nil {
		names[index] = link.Attrs().Name
	}
	return names[index]
}

// put makes the route, in the place of one of ours when replace is set.
func (r ipRoute) put(replace bool) error {
	route := &netlink.Route{
		Family: r.family, Table: r.table, Protocol: Protocol, Priority: r.metric, Dst: anywhere(r.family),
	}
	if r.blackhole {
		route.Type = unix.RTN_BLACKHOLE
	} else {
		link, err := netlink.LinkByName(r.device)
		if err == nil && link.Attrs().Flags&net.FlagUp == 0 {
			err = unix.ENETDOWN // the kernel would say that the router is unreachable
		}
		if err != nil {
			return r.fault(err)
		}
		route.LinkIndex = link.Attrs().Index
		switch {
		case r.local:
			route.Type, route.Scope = unix.RTN_LOCAL, netlink.SCOPE_HOST
		case r.via.IsValid():
			route.Gw = r.via.AsSlice()
		default:
			route.Scope = netlink.SCOPE_LINK
		}
	}
	put := netlink.RouteAdd
	if replace {
		put = netlink.RouteReplace
	}
	if err := put(route); err != nil {
		return r.fault(err)
	}
	return nil
}

// errReturnPending says that a return path has no way back yet: its device is
// missing or down, or its router is not on the device's network. The replies
// are dropped until then (fail closed); the follower puts the way in place
// when the device comes.
var errReturnPending = errors.New("there is no way back yet and the replies are dropped")

func (r ipRoute) fault(err error) error {
	_, missing := errors.AsType[netlink.LinkNotFoundError](err)
	switch {
	case missing || errors.Is(err, unix.ENODEV):
		return fmt.Errorf("add route %q: %w: there is no device %q", r.command("add"), errReturnPending, r.device)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("add route %q: %w: device %q is down (`ip link set %s up`)", r.command("add"), errReturnPending, r.device, r.device)
	case errors.Is(err, unix.EACCES) && r.family == unix.AF_INET6:
		return fmt.Errorf("add route %q: %w: IPv6 is off on device %q (`sysctl -w net/ipv6/conf/%s/disable_ipv6=0`)", r.command("add"), errReturnPending, r.device, r.device)
	case errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || r.via.IsValid() && errors.Is(err, unix.EINVAL):
		return fmt.Errorf("add route %q: %w: router %s is on no network of device %q (`ip address show dev %s`)", r.command("add"), errReturnPending, r.via, r.device, r.device)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("add route %q: another program has such a route in table %d: set netfilter.route_table to a free range: %w", r.command("add"), r.table, err)
	}
	return fmt.Errorf("add route %q: %w", r.command("add"), err)
}

// remove takes the route away; that it is gone already is good.
func (r kernelRoute) remove() error {
	err := netlink.RouteDel(&netlink.Route{
		Family: r.family, Table: r.table, Protocol: Protocol, Priority: r.metric, Type: r.kind,
		Dst: &net.IPNet{IP: r.dst.Addr().AsSlice(), Mask: net.CIDRMask(r.dst.Bits(), r.dst.Addr().BitLen())},
		// The kernel compares the scope of IPv4 routes; nowhere means any.
		Scope: netlink.SCOPE_NOWHERE,
	})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route %q: %w", r.command("del"), err)
	}
	return nil
}

func anywhere(family int) *net.IPNet {
	if family == unix.AF_INET6 {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
}

// ipv6Settings is read of the thread's own network namespace (proc(5)).
const ipv6Settings = "/proc/sys/net/ipv6/conf/"

// speaksIPv6 says whether IPv6 can pass the device at all. A device that is
// missing may when it comes.
func speaksIPv6(device string) bool {
	if _, err := os.Stat(ipv6Settings); err != nil {
		return false
	}
	text, err := os.ReadFile(filepath.Join(ipv6Settings, device, "disable_ipv6"))
	return err != nil || strings.TrimSpace(string(text)) != "1"
}
