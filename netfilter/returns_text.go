package netfilter

import (
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// Rules lists the ip rules as the commands that would make them, in the order
// in which the kernel looks at them.
func (r Returns) Rules() []string {
	lines := make([]string, 0, len(r.rules))
	for _, rule := range r.rules {
		lines = append(lines, rule.command("add"))
	}
	return lines
}

// Routes lists the routes as the commands that would make them.
func (r Returns) Routes() []string {
	lines := make([]string, 0, len(r.routes))
	for _, route := range r.routes {
		lines = append(lines, route.command("add"))
	}
	return lines
}

// Text is the marking table in the words of nft(8), as `nft -s list table
// inet splitd_return` of 1.0.6 prints it but for the elements of the sets
// (see neighbourSet); "" when no path matches by mark.
func (r Returns) Text() string { return r.textWith(nil) }

// textWith is Text with elements, by the name of the set.
func (r Returns) textWith(elements map[string][]neighbour) string {
	if len(r.marks) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableReturn)
	for _, set := range r.sets() {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype ether_addr\n", set.name)
		for _, e := range elements[set.name] {
			fmt.Fprintf(&b, "\t\telements = { %s comment \"%s\" }\n", net.HardwareAddr(e.address), e.router)
		}
		b.WriteString("\t}\n\n")
	}
	for i, chain := range r.chains() {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n", chain.name)
		if chain.kind != "" {
			priority := "mangle - 5"
			if chain.hook == hookPostrouting {
				priority = "mangle"
			}
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %s; policy accept;\n", chain.kind, chain.hook, priority)
		}
		for _, rule := range chain.rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule.text())
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// command is the rule as an argument of ip(8): `ip rule add ...`.
func (r ipRule) command(verb string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s rule %s pref %d", ipCommand(r.family), verb, r.priority)
	switch {
	case r.to.IsValid():
		fmt.Fprintf(&b, " to %s", r.to)
	case r.from.IsValid():
		fmt.Fprintf(&b, " from %s", r.from)
		if r.sport != 0 {
			fmt.Fprintf(&b, " sport %d", r.sport)
		}
	case r.mask != 0:
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.mark, r.mask)
	}
	table := fmt.Sprint(r.table)
	if r.table == unix.RT_TABLE_MAIN {
		table = "main"
	}
	fmt.Fprintf(&b, " lookup %s protocol %d", table, Protocol)
	return b.String()
}

// command is the route as an argument of ip(8): `ip route add ...`.
func (r ipRoute) command(verb string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s route %s ", ipCommand(r.family), verb)
	switch {
	case r.blackhole:
		b.WriteString("blackhole default")
	case r.local:
		fmt.Fprintf(&b, "local default dev %s", r.device)
	case r.via.IsValid():
		fmt.Fprintf(&b, "default via %s dev %s", r.via, r.device)
	default:
		fmt.Fprintf(&b, "default dev %s", r.device)
	}
	if r.metric != metric(r.family) {
		fmt.Fprintf(&b, " metric %d", r.metric)
	}
	fmt.Fprintf(&b, " table %d protocol %d", r.table, Protocol)
	return b.String()
}

// What has to be done, as Differences tells it.
func (r ipRule) addition() string  { return r.command("add") + ": missing" }
func (r ipRule) removal() string   { return r.command("del") + ": to be removed" }
func (r ipRoute) addition() string { return r.command("add") + ": missing" }
func (r ipRoute) removal() string  { return r.command("del") + ": to be removed" }

func ipCommand(family int) string {
	if family == unix.AF_INET6 {
		return "ip -6"
	}
	return "ip"
}
