package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/netfilter/nf_tables.h, not named in x/sys.
const (
	tableHandle        = 4  // NFTA_TABLE_HANDLE
	objectHandle       = 6  // NFTA_OBJ_HANDLE
	flowtableTable     = 1  // NFTA_FLOWTABLE_TABLE
	flowtableName      = 2  // NFTA_FLOWTABLE_NAME
	setHandle          = 16 // NFTA_SET_HANDLE
	elementExpressions = 11 // NFTA_SET_ELEM_EXPRESSIONS
)

// ruleset lists the whole nftables ruleset of every family (NFTA_*,
// linux/netfilter/nf_tables.h). Libraries that decode rules drop expressions
// that they do not know, so this stays with the attributes themselves: names
// are written, contents by hash.
func ruleset() ([]string, error) {
	var lines []string
	for _, kind := range []struct {
		what    string
		request int
		known   map[uint16]attribute
	}{
		{"table", unix.NFT_MSG_GETTABLE, map[uint16]attribute{
			unix.NFTA_TABLE_NAME: {"name", formText}, unix.NFTA_TABLE_FLAGS: {"flags", formBig},
			unix.NFTA_TABLE_USE: {"use", formBig}, tableHandle: {"handle", formBig},
		}},
		{"chain", unix.NFT_MSG_GETCHAIN, map[uint16]attribute{
			unix.NFTA_CHAIN_TABLE: {"table", formText}, unix.NFTA_CHAIN_NAME: {"name", formText},
			unix.NFTA_CHAIN_HANDLE: {"handle", formBig}, unix.NFTA_CHAIN_POLICY: {"policy", formBig},
			unix.NFTA_CHAIN_USE: {"use", formBig}, unix.NFTA_CHAIN_TYPE: {"type", formText},
			unix.NFTA_CHAIN_HOOK: {"hook", formBytes}, unix.NFTA_CHAIN_COUNTERS: {form: formSkip},
		}},
		{"object", unix.NFT_MSG_GETOBJ, map[uint16]attribute{
			unix.NFTA_OBJ_TABLE: {"table", formText}, unix.NFTA_OBJ_NAME: {"name", formText},
			unix.NFTA_OBJ_TYPE: {"type", formBig}, objectHandle: {"handle", formBig},
			unix.NFTA_OBJ_USE: {"use", formBig}, unix.NFTA_OBJ_DATA: {form: formSkip}, // what a counter counted
		}},
		{"flowtable", unix.NFT_MSG_GETFLOWTABLE, map[uint16]attribute{
			flowtableTable: {"table", formText}, flowtableName: {"name", formText},
		}},
	} {
		messages, err := dumpNft(kind.request, unix.NFPROTO_UNSPEC)
		if err != nil {
			return nil, fmt.Errorf("dump %ss: %w", kind.what, err)
		}
		for _, m := range messages {
			text, err := line(kind.what+" "+nftFamily(m), m[nl.SizeofNfgenmsg:], kind.known)
			if err != nil {
				return nil, err
			}
			lines = append(lines, text)
		}
	}
	sets, err := sets()
	if err != nil {
		return nil, err
	}
	rules, err := nftRules()
	if err != nil {
		return nil, err
	}
	return slices.Concat(lines, sets, rules), nil
}

// sets lists sets and maps, each with the hash of its elements, however the
// kernel orders them.
func sets() ([]string, error) {
	messages, err := dumpNft(unix.NFT_MSG_GETSET, unix.NFPROTO_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("dump sets: %w", err)
	}
	var lines []string
	for _, m := range messages {
		text, err := line("set "+nftFamily(m), m[nl.SizeofNfgenmsg:], map[uint16]attribute{
			unix.NFTA_SET_TABLE: {"table", formText}, unix.NFTA_SET_NAME: {"name", formText},
			unix.NFTA_SET_FLAGS: {"flags", formBig}, setHandle: {"handle", formBig},
		})
		if err != nil {
			return nil, err
		}
		elements, err := elements(m)
		if err != nil {
			return nil, err
		}
		lines = append(lines, text+" "+elements)
	}
	return lines, nil
}

// elements hashes what the set holds. A set that the packets themselves fill
// (NFT_SET_EVAL, NFT_SET_TIMEOUT) is only named as such.
func elements(set []byte) (string, error) {
	attributes, err := byKind(set[nl.SizeofNfgenmsg:])
	if err != nil {
		return "", fmt.Errorf("parse set: %w", err)
	}
	if flags := attributes[unix.NFTA_SET_FLAGS]; len(flags) == 4 &&
		binary.BigEndian.Uint32(flags)&(unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT) != 0 {
		return "dynamic", nil
	}
	messages, err := dumpNft(unix.NFT_MSG_GETSETELEM, set[0],
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, attributes[unix.NFTA_SET_TABLE]),
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, attributes[unix.NFTA_SET_NAME]))
	if err != nil {
		return "", fmt.Errorf("dump elements: %w", err)
	}
	var all []string
	for _, m := range messages {
		list, err := nested(m[nl.SizeofNfgenmsg:], unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		if err != nil {
			return "", err
		}
		for _, element := range list {
			text, err := line("", element, map[uint16]attribute{
				unix.NFTA_SET_ELEM_EXPR: {form: formSkip}, elementExpressions: {form: formSkip}, // their counters
			})
			if err != nil {
				return "", err
			}
			all = append(all, text)
		}
	}
	slices.Sort(all)
	return fmt.Sprintf("elements %d %s", len(all), written([]byte(strings.Join(all, "\n")), formBytes)), nil
}

// nftRules lists the rules in their order: expressions by name, their contents
// by hash.
func nftRules() ([]string, error) {
	messages, err := dumpNft(unix.NFT_MSG_GETRULE, unix.NFPROTO_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("dump rules: %w", err)
	}
	var lines []string
	for _, m := range messages {
		text, err := line("rule "+nftFamily(m), m[nl.SizeofNfgenmsg:], map[uint16]attribute{
			unix.NFTA_RULE_TABLE: {"table", formText}, unix.NFTA_RULE_CHAIN: {"chain", formText},
			unix.NFTA_RULE_HANDLE: {"handle", formBig}, unix.NFTA_RULE_POSITION: {"after", formBig},
			unix.NFTA_RULE_EXPRESSIONS: {form: formSkip}, // follow below
		})
		if err != nil {
			return nil, err
		}
		expressions, err := nested(m[nl.SizeofNfgenmsg:], unix.NFTA_RULE_EXPRESSIONS)
		if err != nil {
			return nil, err
		}
		names, contents, err := describe(expressions)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("%s: %s %s", text, names, written(contents, formBytes)))
	}
	return lines, nil
}

// describe returns the names of the expressions and their contents, without
// those of the ones that change as packets pass.
func describe(expressions [][]byte) (names string, contents []byte, err error) {
	var list []string
	for _, e := range expressions {
		attributes, err := byKind(e)
		if err != nil {
			return "", nil, fmt.Errorf("parse expression: %w", err)
		}
		name := written(attributes[unix.NFTA_EXPR_NAME], formText)
		list = append(list, name)
		switch name {
		case "counter", "quota", "last", "connlimit":
		default:
			contents = append(append(contents, name...), attributes[unix.NFTA_EXPR_DATA]...)
		}
	}
	return strings.Join(list, ","), contents, nil
}

// nested returns the contents of the attributes inside the list attribute.
func nested(payload []byte, list uint16) ([][]byte, error) {
	outer, err := nl.ParseRouteAttr(payload)
	if err != nil {
		return nil, fmt.Errorf("parse list: %w", err)
	}
	var contents [][]byte
	for _, a := range outer {
		if kind(a) != list {
			continue
		}
		inner, err := nl.ParseRouteAttr(a.Value)
		if err != nil {
			return nil, fmt.Errorf("parse list: %w", err)
		}
		for _, i := range inner {
			contents = append(contents, i.Value)
		}
	}
	return contents, nil
}

func dumpNft(message int, family uint8, data ...nl.NetlinkRequestData) ([][]byte, error) {
	request := unix.NFNL_SUBSYS_NFTABLES<<8 | message
	data = slices.Concat([]nl.NetlinkRequestData{&nl.Nfgenmsg{NfgenFamily: family}}, data)
	messages, err := dump(unix.NETLINK_NETFILTER, request, data...)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if len(m) < nl.SizeofNfgenmsg {
			return nil, errors.New("a message is cut off")
		}
	}
	return messages, nil
}

func nftFamily(message []byte) string {
	switch message[0] {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_ARP:
		return "arp"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	}
	return fmt.Sprintf("family%d", message[0])
}
