package netfilter

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// networkd writes a drop-in for each device's .network file (systemd.network(5),
// version 250 or newer; FirewallMark= with a mask is older than that).
func (r Returns) networkd(paths []traffic.ReturnPath) string {
	var b strings.Builder
	b.WriteString("# The receiving side of splitd for systemd-networkd, for a host without the\n" +
		"# daemon: the two would remove each other's rules and routes.\n" +
		"# If other programs (splitd on a router is one) keep rules and routes on this\n" +
		"# host, networkd removes theirs unless /etc/systemd/networkd.conf says\n" +
		"#   [Network]\n" +
		"#   ManageForeignRoutingPolicyRules=no\n" +
		"#   ManageForeignRoutes=no\n" +
		"# networkd takes rules and the blackhole away with the carrier, unless the\n" +
		"# .network file says IgnoreCarrierLoss=yes in [Network].\n")
	if len(r.marks) > 0 {
		b.WriteString("# Flows are marked by nftables: load the table that `splitctl plan --receiver\n" +
			"# -o nft` prints as well, and run its commands that fill a set.\n")
	}
	for _, device := range r.devices() {
		fmt.Fprintf(&b, "\n# %s: put this into the folder FILE.network.d beside the FILE.network that\n"+
			"# `networkctl status %s` names, as splitd.conf, and run `networkctl reload`.\n", device, device)
		// networkd drops the one of two that is written first, with its network.
		if len(addressesOf(paths, device)) > 0 {
			b.WriteString("# Leave out an [Address] that the device has in FILE.network already.\n")
		}
		for _, address := range addressesOf(paths, device) {
			fmt.Fprintf(&b, "[Address]\nAddress=%s\n\n", address)
		}
		rules, routes := r.byDevice(device)
		for _, rule := range rules {
			b.WriteString(rule.networkd())
		}
		for _, route := range routes {
			b.WriteString(route.networkd())
		}
	}
	b.WriteString("# If the device is a tunnel (vxlan, gre, ipip, sit), its own packets must not\n" +
		fmt.Sprintf("# enter it again: a rule with Priority=%d, To=FAR_END and Table=main.\n", r.settings.RulePriority))
	return b.String()
}

func (r ipRule) networkd() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[RoutingPolicyRule]\nPriority=%d\n", r.priority)
	switch {
	case r.to.IsValid():
		fmt.Fprintf(&b, "To=%s\n", r.to)
	case r.from.IsValid():
		fmt.Fprintf(&b, "From=%s\n", r.from)
	default:
		fmt.Fprintf(&b, "FirewallMark=%#x/%#x\nFamily=%s\n", r.mark, r.mask, map[bool]string{false: "ipv4", true: "ipv6"}[r.family == unix.AF_INET6])
	}
	table := fmt.Sprint(r.table)
	if r.table == unix.RT_TABLE_MAIN {
		table = "main"
	}
	fmt.Fprintf(&b, "Table=%s\n\n", table)
	return b.String()
}

func (r ipRoute) networkd() string {
	var b strings.Builder
	b.WriteString("[Route]\n")
	switch {
	case r.blackhole:
		fmt.Fprintf(&b, "Destination=%s\nType=blackhole\n", everywhere(r.family))
	case r.via.IsValid():
		fmt.Fprintf(&b, "Gateway=%s\n", r.via)
	default:
		fmt.Fprintf(&b, "Destination=%s\nScope=link\n", everywhere(r.family))
	}
	if r.metric != 0 {
		fmt.Fprintf(&b, "Metric=%d\n", r.metric)
	}
	fmt.Fprintf(&b, "Table=%d\n\n", r.table)
	return b.String()
}

func everywhere(family int) string {
	if family == unix.AF_INET6 {
		return "::/0"
	}
	return "0.0.0.0/0"
}
