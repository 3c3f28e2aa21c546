package doctor

import (
	"strconv"
	"strings"
)

// parseCounters reads a text of /proc/net/netstat or /proc/net/snmp: pairs of
// lines, names and then numbers, both beginning with the protocol. The result
// is by "TcpExt.IPReversePathFilter". What makes no sense is left out.
func parseCounters(text string) map[string]uint64 {
	counters := map[string]uint64{}
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, numbers := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) == 0 || len(numbers) == 0 || names[0] != numbers[0] {
			continue
		}
		protocol := strings.TrimSuffix(names[0], ":")
		for j := 1; j < min(len(names), len(numbers)); j++ {
			if n, err := strconv.ParseUint(numbers[j], 10, 64); err == nil {
				counters[protocol+"."+names[j]] = n
			}
		}
	}
	return counters
}

// parseTrackingStat reads /proc/net/stat/nf_conntrack: a head, then a line of
// hexadecimal numbers for each CPU (ct_cpu_seq_show, nf_conntrack_standalone.c).
func parseTrackingStat(text string) TrackingLosses {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	head := strings.Fields(lines[0])
	var sum TrackingLosses
	for _, line := range lines[1:] {
		for i, number := range strings.Fields(line) {
			n, err := strconv.ParseUint(number, 16, 64)
			if err != nil || i >= len(head) {
				continue
			}
			switch head[i] {
			case "drop":
				sum.Dropped += n
			case "early_drop":
				sum.EarlyDropped += n
			case "insert_failed":
				sum.InsertFailed += n
			}
		}
	}
	return sum
}

// parseUnboundUDP reads /proc/net/udp or udp6 and returns the ports of sockets
// that are bound to no address and connected to none.
func parseUnboundUDP(text string) []uint16 {
	var ports []uint16
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		local, port, ok := strings.Cut(fields[1], ":")
		remote, _, _ := strings.Cut(fields[2], ":")
		if !ok || strings.Trim(local, "0") != "" || strings.Trim(remote, "0") != "" || len(local) != 8 && len(local) != 32 {
			continue
		}
		if n, err := strconv.ParseUint(port, 16, 16); err == nil && n > 0 {
			ports = append(ports, uint16(n))
		}
	}
	return ports
}

// parseVersion reads the numbers of "6.9.0-rc1", "v1.0.6" or "nftables v1.1.3
// (Commodore Bullmoose)"; ok is false without two of them.
func parseVersion(text string) (major, minor int, ok bool) {
	for word := range strings.FieldsSeq(text) {
		first, rest, found := strings.Cut(strings.TrimPrefix(word, "v"), ".")
		if !found {
			continue
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if end < 0 {
			end = len(rest)
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(rest[:end], 10, 16)
		if err == nil && err2 == nil {
			return int(a), int(b), true
		}
	}
	return 0, 0, false
}

// atLeast says whether a version is known and not older.
func atLeast(version string, major, minor int) bool {
	a, b, ok := parseVersion(version)
	return ok && (a > major || a == major && b >= minor)
}

// parseNetworkd reads what networkd.conf(5) says of other programs' rules and
// routes in [Network], where the last word counts; nil is no word.
func parseNetworkd(text string) (rules, routes *bool) {
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = line
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section != "[Network]" {
			continue
		}
		keeps := isNo(strings.TrimSpace(value))
		switch strings.TrimSpace(key) {
		case "ManageForeignRoutingPolicyRules":
			rules = &keeps
		case "ManageForeignRoutes":
			routes = &keeps
		}
	}
	return rules, routes
}

// isNo knows systemd's words for false (systemd.syntax(7)).
func isNo(word string) bool {
	switch strings.ToLower(word) {
	case "no", "false", "off", "0", "n", "f":
		return true
	}
	return false
}
