package netfilter

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// A ReceiverForm is a program's plain configuration that return paths can be
// written in, for a new host that is to run no daemon of ours.
type ReceiverForm string

// The forms.
const (
	ReceiverNetworkd ReceiverForm = "networkd" // systemd.network(5)
	ReceiverIfupdown ReceiverForm = "ifupdown" // interfaces(5)
	ReceiverNft      ReceiverForm = "nft"      // nft(8), with the ip(8) commands as comments
)

// ReceiverForms lists them.
func ReceiverForms() []ReceiverForm {
	return []ReceiverForm{ReceiverNetworkd, ReceiverIfupdown, ReceiverNft}
}

// Receiver writes the return paths in that form: the same rules, routes and
// marks that Apply makes, but for what only a daemon knows, which is named in
// the text. It needs no kernel.
func Receiver(paths []traffic.ReturnPath, settings Settings, form ReceiverForm) (string, error) {
	r, err := BuildReturns(paths, settings)
	if err != nil {
		return "", err
	}
	switch form {
	case ReceiverNetworkd:
		return r.networkd(paths), nil
	case ReceiverIfupdown:
		return r.ifupdown(paths), nil
	case ReceiverNft:
		return r.script(paths), nil
	}
	return "", fmt.Errorf("receiver form %q is unknown", form)
}

// addressesOf are the addresses that the paths by a device know replies by.
func addressesOf(paths []traffic.ReturnPath, device string) []string {
	var all []string
	for _, p := range paths {
		if p.Match == traffic.MatchAddress && (device == "" || p.Device == device) {
			all = append(all, fmt.Sprintf("%s/%d", p.Address, p.Address.BitLen()))
		}
	}
	return all
}

// tablesOf are the route tables whose way back is by the device.
func (r Returns) tablesOf(device string) []int {
	var tables []int
	for _, route := range r.routes {
		if route.device == device {
			tables = append(tables, route.table)
		}
	}
	return tables
}

// byDevice are the rules and routes of the paths by the device. A guard serves
// every path to its router, and belongs to each device that has one.
func (r Returns) byDevice(device string) (rules []ipRule, routes []ipRoute) {
	tables := r.tablesOf(device)
	for _, route := range r.routes {
		if slices.Contains(tables, route.table) {
			routes = append(routes, route)
		}
	}
	for _, rule := range r.rules {
		guards := rule.to.IsValid() && slices.ContainsFunc(routes, func(o ipRoute) bool { return o.via == rule.to })
		if guards || slices.Contains(tables, rule.table) {
			rules = append(rules, rule)
		}
	}
	return rules, routes
}

// script is the marking table for `nft -f`, and the rest as commands behind
// "#   ".
func (r Returns) script(paths []traffic.ReturnPath) string {
	var b strings.Builder
	b.WriteString("# The receiving side of splitd as nft text and ip commands, for a host without\n" +
		"# the daemon. Load it at boot with `nft -f FILE`, and run the commands in it:\n" +
		"#   sed -n 's/^#=> //p' FILE | sh -e\n" +
		"# Both may be done again. " + foreignHint + "\n")
	if text := r.Text(); text != "" {
		fmt.Fprintf(&b, "\nadd table inet %s\ndelete table inet %s\n%s", TableReturn, TableReturn, text)
	}
	b.WriteString("\n")
	command := func(text string) { b.WriteString("#=> " + text + "\n") }
	for _, device := range r.devices() {
		for _, address := range addressesOf(paths, device) {
			command(fmt.Sprintf("ip address replace %s dev %s", address, device))
		}
	}
	for _, route := range r.inOrder() {
		command(route.command("replace"))
	}
	for _, rule := range r.rules {
		command(rule.ensure())
	}
	for _, set := range r.sets() {
		command(set.fill())
	}
	if len(r.sets()) > 0 {
		b.WriteString("# The sets hold the routers' link-layer addresses. A router that changes its\n" +
			"# network card is followed by splitd run, but not by this file: run it again.\n")
	}
	if len(r.marks) > 0 {
		b.WriteString("# This host needs a route to the clients, a default route say, wherever it leads:\n" +
			"# without one it never makes the first SYN-ACK that the mark could turn.\n")
	}
	b.WriteString(tunnelHint(r))
	return b.String()
}

// foreignHint is for hosts whose routes systemd-networkd manages.
const foreignHint = "systemd-networkd removes rules and routes that\n" +
	"# it did not make: where it runs, set ManageForeignRoutingPolicyRules=no and\n" +
	"# ManageForeignRoutes=no in /etc/systemd/networkd.conf (section [Network])."

// tunnelHint names what a text cannot know.
func tunnelHint(r Returns) string {
	return fmt.Sprintf("# If a device is a tunnel (vxlan, gre, ipip, sit), its own packets must not enter\n"+
		"# it again: `ip rule add pref %d to FAR_END lookup main protocol %d`.\n", r.settings.RulePriority, Protocol)
}

// inOrder are the routes, the blackholes first: without a way back a reply is
// dropped and leaves by no other.
func (r Returns) inOrder() []ipRoute {
	routes := slices.Clone(r.routes)
	slices.SortStableFunc(routes, func(a, b ipRoute) int {
		switch {
		case a.blackhole == b.blackhole:
			return 0
		case a.blackhole:
			return -1
		}
		return 1
	})
	return routes
}

// ensure is a command that may be run again: the kernel refuses a second rule
// that is the same, but so it does other things.
func (r ipRule) ensure() string {
	table := fmt.Sprint(r.table)
	if r.table == unix.RT_TABLE_MAIN {
		table = "main"
	}
	what := table
	switch {
	case r.from.IsValid():
		what = fmt.Sprintf("from %s lookup %s", r.from, table)
	case r.to.IsValid():
		what = fmt.Sprintf("to %s lookup %s", r.to, table)
	case r.mask != 0:
		what = fmt.Sprintf("fwmark %#x/%#x lookup %s", r.mark, r.mask, table)
	}
	return fmt.Sprintf("%s rule list pref %d | grep -qF '%s' || %s", ipCommand(r.family), r.priority, what, r.command("add"))
}

// fill is a command that puts the router's link-layer address into the set.
func (s neighbourSet) fill() string {
	ip := ipCommand(family(s.path.via))
	return fmt.Sprintf("ping -c 1 -W 2 %s >/dev/null || true; nft add element inet %s %s '{' $(%s neighbour show %s dev %s | sed -n 's/.*lladdr \\([^ ]*\\).*/\\1/p') '}'",
		s.path.via, TableReturn, s.name, ip, s.path.via, s.path.device)
}
