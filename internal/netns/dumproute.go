package netns

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

var families = [...]struct {
	number int
	name   string
}{{unix.AF_INET, "ipv4"}, {unix.AF_INET6, "ipv6"}}

// policyRules lists the policy routing rules of both families in the order in
// which the kernel asks them (struct fib_rule_hdr and FRA_*, linux/fib_rules.h).
func policyRules() ([]string, error) {
	known := map[uint16]attribute{
		nl.FRA_DST: {"to", formAddress}, nl.FRA_SRC: {"from", formAddress},
		nl.FRA_IIFNAME: {"iif", formText}, nl.FRA_OIFNAME: {"oif", formText},
		nl.FRA_GOTO: {"goto", formNumber}, nl.FRA_PRIORITY: {"priority", formNumber},
		nl.FRA_FWMARK: {"fwmark", formNumber}, nl.FRA_FWMASK: {"fwmask", formNumber},
		nl.FRA_TABLE: {"table", formNumber}, nl.FRA_PROTOCOL: {"protocol", formNumber},
	}
	var lines []string
	for _, family := range families {
		messages, err := dump(unix.NETLINK_ROUTE, unix.RTM_GETRULE, &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family.number)}})
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if len(m) < unix.SizeofRtMsg {
				return nil, fmt.Errorf("rule of %d bytes is cut off", len(m))
			}
			what := fmt.Sprintf("%s to/%d from/%d tos %d action %d flags %#x", family.name, m[1], m[2], m[3], m[7], m[8:12])
			text, err := line(what, m[unix.SizeofRtMsg:], known)
			if err != nil {
				return nil, err
			}
			lines = append(lines, text)
		}
	}
	return lines, nil
}

// routes lists the routes of all tables and both families, sorted (struct
// rtmsg and RTA_*, rtnetlink(7)).
func routes() ([]string, error) {
	known := map[uint16]attribute{
		unix.RTA_DST: {"to", formAddress}, unix.RTA_SRC: {"from", formAddress},
		unix.RTA_OIF: {"dev", formNumber}, unix.RTA_IIF: {"iif", formNumber},
		unix.RTA_GATEWAY: {"via", formAddress}, unix.RTA_PREFSRC: {"src", formAddress},
		unix.RTA_PRIORITY: {"metric", formNumber}, unix.RTA_TABLE: {"table", formNumber},
		unix.RTA_PREF:      {"pref", formNumber},
		unix.RTA_CACHEINFO: {form: formSkip}, unix.RTA_MFC_STATS: {form: formSkip}, unix.RTA_EXPIRES: {form: formSkip},
	}
	var lines []string
	for _, family := range families {
		messages, err := dump(unix.NETLINK_ROUTE, unix.RTM_GETROUTE, &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family.number)}})
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if len(m) < unix.SizeofRtMsg {
				return nil, fmt.Errorf("route of %d bytes is cut off", len(m))
			}
			what := fmt.Sprintf("%s to/%d from/%d tos %d protocol %d scope %d type %d flags %#x",
				family.name, m[1], m[2], m[3], m[5], m[6], m[7], m[8:12])
			text, err := line(what, m[unix.SizeofRtMsg:], known)
			if err != nil {
				return nil, err
			}
			lines = append(lines, text)
		}
	}
	slices.Sort(lines)
	return lines, nil
}
