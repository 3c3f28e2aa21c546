package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Snapshot is what the kernel holds for a network namespace, as text, to be
// compared with what it holds later. Everything is in it that a program could
// leave behind: the whole nftables ruleset of every family with handles, so
// that a rule which was deleted and made anew counts as changed; the policy
// rules and the routes of all tables; devices and addresses; the sysctls of
// routing. What changes by traffic alone (packet counters, ages of routes,
// neighbours, conntrack entries) is not.
type Snapshot struct {
	Links     []string
	Addresses []string
	Rules     []string // in the kernel's order
	Routes    []string
	Ruleset   []string // chains and rules in the kernel's order
	Sysctls   []string
}

// Snapshot takes the snapshot of the namespace.
func (ns *NS) Snapshot() (Snapshot, error) {
	var s Snapshot
	err := ns.Do(func() (err error) {
		s, err = Take()
		return err
	})
	if err != nil {
		return Snapshot{}, fmt.Errorf("take snapshot of %q: %w", ns.Name, err)
	}
	return s, nil
}

// Take takes the snapshot of the namespace that the calling thread is in.
func Take() (Snapshot, error) {
	var s Snapshot
	for _, part := range []struct {
		what string
		into *[]string
		read func() ([]string, error)
	}{
		{"links", &s.Links, links},
		{"addresses", &s.Addresses, addresses},
		{"rules", &s.Rules, policyRules},
		{"routes", &s.Routes, routes},
		{"ruleset", &s.Ruleset, ruleset},
		{"sysctls", &s.Sysctls, sysctls},
	} {
		lines, err := part.read()
		if err != nil {
			return Snapshot{}, fmt.Errorf("read %s: %w", part.what, err)
		}
		*part.into = lines
	}
	return s, nil
}

// Text is the whole snapshot, one thing a line.
func (s Snapshot) Text() string {
	var b strings.Builder
	for _, part := range s.parts() {
		for _, line := range part.lines {
			fmt.Fprintf(&b, "%s: %s\n", part.what, line)
		}
	}
	return b.String()
}

// Differences says what has changed since s was taken: lines that are gone
// begin with "-", new ones with "+". None means that the texts are equal.
func (s Snapshot) Differences(later Snapshot) []string {
	var differences []string
	laterParts := later.parts()
	for i, part := range s.parts() {
		was, is := part.lines, laterParts[i].lines
		if slices.Equal(was, is) {
			continue
		}
		gone, added := without(was, is), without(is, was)
		if len(gone)+len(added) == 0 {
			differences = append(differences, fmt.Sprintf("+ %s: the same lines in another order", part.what))
		}
		for _, line := range gone {
			differences = append(differences, fmt.Sprintf("- %s: %s", part.what, line))
		}
		for _, line := range added {
			differences = append(differences, fmt.Sprintf("+ %s: %s", part.what, line))
		}
	}
	return differences
}

type snapshotPart struct {
	what  string
	lines []string
}

func (s Snapshot) parts() []snapshotPart {
	return []snapshotPart{
		{"link", s.Links},
		{"address", s.Addresses},
		{"rule", s.Rules},
		{"route", s.Routes},
		{"nft", s.Ruleset},
		{"sysctl", s.Sysctls},
	}
}

// without returns the lines that are not in the others, each as often as it
// is missing there.
func without(lines, others []string) []string {
	seen := make(map[string]int, len(others))
	for _, line := range others {
		seen[line]++
	}
	var left []string
	for _, line := range lines {
		if seen[line] > 0 {
			seen[line]--
			continue
		}
		left = append(left, line)
	}
	return left
}

func links() ([]string, error) {
	list, err := retryDump(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	lines := make([]string, 0, len(list))
	for _, link := range list {
		a := link.Attrs()
		lines = append(lines, fmt.Sprintf("%d %s type %s flags %s mtu %d master %d mac %s",
			a.Index, a.Name, link.Type(), a.Flags, a.MTU, a.MasterIndex, a.HardwareAddr))
	}
	return lines, nil
}

func addresses() ([]string, error) {
	list, err := retryDump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	lines := make([]string, 0, len(list))
	for _, a := range list {
		lines = append(lines, fmt.Sprintf("%s dev %d scope %d flags %#x", a.IPNet, a.LinkIndex, a.Scope, a.Flags))
	}
	slices.Sort(lines)
	return lines, nil
}

// sysctls reads what splitd promises never to write.
func sysctls() ([]string, error) {
	var lines []string
	for _, pattern := range []string{
		"net/ipv4/ip_forward", "net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect",
		"net/ipv4/conf/*/forwarding", "net/ipv4/conf/*/rp_filter", "net/ipv4/conf/*/src_valid_mark",
		"net/ipv4/conf/*/accept_local", "net/ipv4/conf/*/route_localnet", "net/ipv4/conf/*/send_redirects",
		"net/ipv6/conf/*/forwarding", "net/ipv6/conf/*/accept_ra", "net/ipv6/fwmark_reflect",
	} {
		files, err := filepath.Glob("/proc/sys/" + pattern)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			value, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			lines = append(lines, strings.TrimPrefix(file, "/proc/sys/")+" = "+strings.TrimSpace(string(value)))
		}
	}
	return lines, nil
}
