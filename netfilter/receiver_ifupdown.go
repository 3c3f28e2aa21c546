package netfilter

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// ifupdown writes a stanza for each device and family (interfaces(5)). Several
// stanzas of one device are all used. Each line may be run again.
func (r Returns) ifupdown(paths []traffic.ReturnPath) string {
	var b strings.Builder
	b.WriteString("# The receiving side of splitd for ifupdown, for a host without the daemon: put\n" +
		"# this into /etc/network/interfaces.d/splitd and run `ifdown DEVICE; ifup DEVICE`.\n" +
		"# " + foreignHint + "\n")
	if len(r.marks) > 0 {
		b.WriteString("# Flows are marked by nftables: load the table that `splitctl plan --receiver\n" +
			"# -o nft` prints as well.\n")
	}
	for _, device := range r.devices() {
		rules, routes := r.byDevice(device)
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			b.WriteString(stanza(device, family,
				slices.DeleteFunc(addressesOf(paths, device), func(a string) bool { return strings.Contains(a, ":") != (family == unix.AF_INET6) }),
				slices.DeleteFunc(slices.Clone(rules), func(r ipRule) bool { return r.family != family }),
				slices.DeleteFunc(Returns{routes: routes}.inOrder(), func(r ipRoute) bool { return r.family != family })))
		}
	}
	b.WriteString("\n" + tunnelHint(r))
	return b.String()
}

func stanza(device string, family int, addresses []string, rules []ipRule, routes []ipRoute) string {
	if len(rules) == 0 {
		return ""
	}
	var up, down []string
	for _, a := range addresses {
		up = append(up, fmt.Sprintf("ip address replace %s dev %s", a, device))
		down = append(down, fmt.Sprintf("ip address del %s dev %s", a, device))
	}
	for _, route := range routes {
		up = append(up, route.command("replace"))
	}
	for _, rule := range rules {
		up = append(up, rule.ensure())
		down = append(down, rule.command("del"))
	}
	for _, route := range slices.Backward(routes) {
		down = append(down, route.command("del"))
	}
	inet := "inet"
	if family == unix.AF_INET6 {
		inet = "inet6"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\niface %s %s manual\n", device, inet)
	for _, line := range up {
		b.WriteString("    up " + line + "\n")
	}
	for _, line := range down {
		b.WriteString("    down " + line + " 2>/dev/null || true\n")
	}
	return b.String()
}
