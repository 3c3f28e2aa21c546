package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// Preflight looks at this host before kernel mode begins: what would break the
// splits is an error, what may break them a warning, each with the command
// that cures it. All errors come at once. It changes nothing; splits are those
// of kernel mode.
func (k *Kernel) Preflight(splits []traffic.Split, paths []traffic.ReturnPath) (warnings []string, err error) {
	facts, err := gatherFacts(splits, paths)
	if err != nil {
		return nil, fmt.Errorf("look at this host: %w", err)
	}
	found := judge(facts, splits, paths)
	return found.warnings, found.err()
}

// HasNetAdmin says whether this process may program its network namespace:
// CAP_NET_ADMIN in the user namespace that owns it (capabilities(7)).
func HasNetAdmin() bool {
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil || sets[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return false
	}
	// Root of a user namespace has every capability, but not over the network
	// namespace of the machine: ask the kernel something that needs it.
	conn, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = conn.GetGen()
	return !errors.Is(err, unix.EPERM)
}

func gatherFacts(splits []traffic.Split, paths []traffic.ReturnPath) (hostFacts, error) {
	names := map[uint32]string{}
	facts := hostFacts{
		forwards4: sysctl("net/ipv4/ip_forward") == 1,
		forwards6: sysctl("net/ipv6/conf/all/forwarding") == 1,
		here:      map[netip.Addr]bool{}, towards: map[netip.Addr]string{},
		strict: map[string]bool{}, devices: map[string]bool{},
		trackingMax: sysctl("net/netfilter/nf_conntrack_max"),
	}
	// Addresses of nobody (RFC 5737, RFC 3849) take the default route.
	_, facts.clients4 = look(netip.MustParseAddr("192.0.2.0"), names)
	_, facts.clients6 = look(netip.MustParseAddr("2001:db8::"), names)
	for _, s := range splits {
		for _, a := range s.Service.Addresses {
			facts.here[a], _ = look(a, names)
		}
		for _, b := range s.Backends() {
			for _, a := range b.Addresses {
				facts.here[a.IP], facts.towards[a.IP] = look(a.IP, names)
			}
		}
	}
	for _, device := range facts.towards {
		facts.strict[device] = isStrict(device)
	}
	for _, p := range paths {
		if p.Address.IsValid() {
			facts.here[p.Address], _ = look(p.Address, names)
		}
		_, err := netlink.LinkByName(p.Device)
		facts.devices[p.Device] = err == nil
		facts.strict[p.Device] = isStrict(p.Device)
	}
	var err error
	facts.tables, facts.tracking, err = readForeign()
	facts.tracking = facts.tracking || sysctl("net/netfilter/nf_conntrack_count") > 0
	return facts, err
}

// look asks the kernel's route tables, which know addresses on devices as well
// as local routes: whether the address is this host's own and, if not, which
// device leads to it, "" when none does.
func look(a netip.Addr, names map[uint32]string) (here bool, device string) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return false, ""
	}
	return routes[0].Type == unix.RTN_LOCAL, deviceName(uint32(routes[0].LinkIndex), names)
}

// sysctl reads a number of the thread's own network namespace; 0 when the
// kernel has no such setting.
func sysctl(name string) int {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// isStrict judges a device as the kernel does: the higher of both settings
// counts (Documentation/networking/ip-sysctl.rst, rp_filter).
func isStrict(device string) bool {
	if device == "" {
		return false
	}
	return max(sysctl("net/ipv4/conf/all/rp_filter"), sysctl(filepath.Join("net/ipv4/conf", device, "rp_filter"))) == 1
}

// readForeign reads other programs' tables as far as they matter to us, and
// says whether connection tracking is at work: a nat chain turns it on.
func readForeign() (tables []foreignTable, tracking bool, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, false, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }()
	chains, err := conn.ListChains()
	if err != nil {
		return nil, false, fmt.Errorf("list chains: %w", err)
	}
	type key struct{ family, name string }
	index := map[key]int{}
	var raw []*nftables.Table
	for _, c := range chains {
		tracking = tracking || c.Type == nftables.ChainTypeNAT
		base, matters := parseChain(c)
		family := familyName(c.Table.Family)
		if !matters || family == "" || strings.HasPrefix(c.Table.Name, TableSplits) {
			continue
		}
		at := key{family, c.Table.Name}
		i, known := index[at]
		if !known {
			i = len(tables)
			index[at] = i
			tables = append(tables, foreignTable{family: family, name: c.Table.Name, rules: map[string][]*nftables.Rule{}, sets: map[string]foreignSet{}})
			raw = append(raw, c.Table)
		}
		tables[i].chains = append(tables[i].chains, base)
	}
	for i := range tables {
		if err := tables[i].read(conn, raw[i], chains); err != nil {
			return nil, false, fmt.Errorf("read table %s %s: %w", tables[i].family, tables[i].name, err)
		}
	}
	return tables, tracking, nil
}

// parseChain says whether the chain can stand in our way, and how it is hooked.
func parseChain(c *nftables.Chain) (foreignChain, bool) {
	if c.Hooknum == nil || c.Priority == nil {
		return foreignChain{}, false
	}
	base := foreignChain{name: c.Name, kind: string(c.Type), priority: int(*c.Priority)}
	base.drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
	switch *c.Hooknum {
	case *nftables.ChainHookPrerouting:
		base.hook = hookPrerouting
		return base, base.kind == kindNAT && base.priority <= prioritySplit
	case *nftables.ChainHookForward:
		base.hook = hookForward
		return base, base.drops
	}
	return base, false
}

func familyName(f nftables.TableFamily) string {
	switch f { //nolint:exhaustive // no routed packet passes the others
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	}
	return ""
}

// read fetches the table's base chains and what they lead to.
func (t *foreignTable) read(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain) error {
	var todo []string
	for _, c := range t.chains {
		todo = append(todo, c.name)
	}
	for _, c := range chains {
		// Docker's own chain for users is part of the cure, used or not.
		if c.Name == "DOCKER-USER" && c.Table.Name == t.name && c.Table.Family == table.Family {
			todo = append(todo, c.Name)
		}
	}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if _, done := t.rules[name]; done {
			continue
		}
		rules, err := conn.GetRules(table, &nftables.Chain{Name: name, Table: table})
		if err != nil && !errors.Is(err, unix.ENOENT) { // gone meanwhile
			return fmt.Errorf("read chain %q: %w", name, err)
		}
		t.rules[name] = rules
		for _, rule := range rules {
			more, err := t.follow(conn, table, rule.Exprs)
			if err != nil {
				return err
			}
			todo = append(todo, more...)
		}
	}
	return nil
}

// follow reads the sets that a rule uses and returns the chains it leads to.
func (t *foreignTable) follow(conn *nftables.Conn, table *nftables.Table, exprs []expr.Any) ([]string, error) {
	var chains []string
	add := func(v *expr.Verdict) {
		if v != nil && v.Chain != "" {
			chains = append(chains, v.Chain)
		}
	}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Verdict:
			add(e)
		case *expr.Lookup:
			if _, done := t.sets[e.SetName]; done {
				continue
			}
			set, err := conn.GetSetByName(table, e.SetName)
			if errors.Is(err, unix.ENOENT) {
				continue // gone meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("read set %q: %w", e.SetName, err)
			}
			set.Table = table
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("read elements of %q: %w", e.SetName, err)
			}
			t.sets[e.SetName] = foreignSet{interval: set.Interval, concat: set.Concatenation, elements: elements}
			for i := range elements {
				add(elements[i].VerdictData)
			}
		}
	}
	return chains, nil
}
