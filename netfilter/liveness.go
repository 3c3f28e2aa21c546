package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// liveReturns counts the flows that use the return paths of this host: by mark
// where the paths match by mark, by the kept addresses where they match by
// address.
func (l *link) liveReturns(settings Settings) (int, error) {
	total := 0
	marks, err := l.hasTable(TableReturn)
	if err != nil {
		return 0, err
	}
	if marks {
		var classes []markClass
		for i := range ReturnsMax {
			classes = append(classes, returnClass(i))
		}
		if total, err = countMarked(settings, classes...); err != nil {
			return 0, err
		}
	}
	rules, err := readRules()
	if err != nil {
		return 0, err
	}
	var kept []netip.Addr
	for _, r := range rules {
		if r.from.IsValid() && r.sport == 0 { // which is a relay's
			kept = append(kept, r.from)
		}
	}
	if len(kept) == 0 {
		return total, nil
	}
	byAddress, err := liveAt(kept)
	return total + byAddress, err
}

// liveAt counts the flows to the addresses: the connections of this host's own
// servers, or, where it passes them on, conntrack's entries. One flow may be
// in both lists, so the longer one counts.
func liveAt(addresses []netip.Addr) (int, error) {
	sockets := 0
	for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("list connections: %w", err)
		}
		sockets += countSockets(string(text), addresses)
	}
	// Without conntrack in this kernel nothing can be passed on by it.
	if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_count"); err != nil {
		return sockets, nil
	}
	conn, err := openConntrack()
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	flows, err := conn.Dump(nil)
	if err != nil {
		return 0, fmt.Errorf("list conntrack entries: %w", err)
	}
	entries := 0
	for _, f := range flows {
		if live(f) && slices.Contains(addresses, f.TupleOrig.IP.DestinationAddress.Unmap()) {
			entries++
		}
	}
	return max(sockets, entries), nil
}

// States of a socket in /proc/net/tcp (include/net/tcp_states.h) that are no
// flow any more or not yet.
const (
	socketTimeWait = "06"
	socketClose    = "07"
	socketListen   = "0A"
)

// countSockets counts the open connections of the addresses in the text of
// /proc/net/tcp or tcp6 (proc_net_tcp in the kernel's documentation).
func countSockets(text string, addresses []netip.Addr) int {
	total := 0
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		local, _, _ := strings.Cut(fields[1], ":")
		address, ok := parseProcAddress(local)
		if !ok || !slices.Contains(addresses, address) {
			continue
		}
		switch fields[3] {
		case socketTimeWait, socketClose, socketListen:
		default:
			total++
		}
	}
	return total
}

// parseProcAddress reads an address that is printed as words of the machine's
// byte order.
func parseProcAddress(text string) (netip.Addr, bool) {
	var raw []byte
	for len(text) >= 8 {
		word, err := strconv.ParseUint(text[:8], 16, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		raw, text = binary.NativeEndian.AppendUint32(raw, uint32(word)), text[8:]
	}
	address, ok := netip.AddrFromSlice(raw)
	return address.Unmap(), ok && text == ""
}
