package daemon

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/splitd/splitd/traffic"
)

// shutOutRecent is for how long it is told that clients were shut out.
const shutOutRecent = time.Minute

// shutOutWarnings say which clients were shut out lately, and what lets them in.
func shutOutWarnings(newest map[traffic.Refusal]time.Time, now time.Time) []string {
	var warnings []string
	for _, reason := range slices.Sorted(maps.Keys(newest)) {
		if ago := now.Sub(newest[reason]); ago < shutOutRecent {
			warnings = append(warnings, fmt.Sprintf("clients are shut out (%s, the newest %s ago): %s", reason, max(ago, 0).Round(time.Second), remedy(reason)))
		}
	}
	return warnings
}

// remedy says what reaches its end, and what helps.
func remedy(reason traffic.Refusal) string {
	switch reason { //nolint:exhaustive // others are no lack of anything
	case traffic.RefusedMaxFlows:
		return "the split has as many flows as proxy.max_flows permits: raise it if there may be more"
	case traffic.RefusedMaxClientFlows:
		return "one address has as many flows as proxy.max_client_flows permits: raise it if it is a network of many behind one address"
	case traffic.RefusedNoFiles:
		return "splitd has no file descriptor or epoll watch for them: raise LimitNOFILE of its unit, or what the log names"
	case traffic.RefusedNoMemory:
		return "flows have half of the memory of the host or of splitd's unit: raise MemoryMax, or lower proxy.max_flows of other splits; or the kernel has none, see the log"
	case traffic.RefusedNoPorts:
		return "flows of UDP have all local ports that they may: widen net.ipv4.ip_local_port_range"
	}
	return "see splitd_flows_shut_out_total"
}
