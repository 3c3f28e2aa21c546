package splitter

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Where struct inet_diag_msg has what we read: its state, then its ports and
// addresses in the network's order (include/uapi/linux/inet_diag.h, sock_diag(7)).
const (
	diagHere    = 4
	diagThere   = 6
	diagHereIP  = 8
	diagThereIP = 24
	diagSize    = 72

	// synRecv selects handshakes that wait for the client's ACK: the kernel
	// takes it for TCP_NEW_SYN_RECV too (inet_diag_dump_icsk).
	synRecv = 1 << 3
)

// handshakes lists the clients that a listener at the address has answered (with
// port 0: of the unspecified address, any listener of its family has) and that have not acknowledged it yet: they are not in its queue, and yet the
// close of the listener resets them. Those that the kernel answered by SYN
// cookies leave no trace and are not listed. It asks the kernel of the calling
// thread's namespace, and needs no capability.
func handshakes(at netip.AddrPort) (map[netip.AddrPort]bool, error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddRawData(askHandshakes(at))
	answers, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return nil, fmt.Errorf("list handshakes at %q: %w", at, err)
	}
	clients := map[netip.AddrPort]bool{}
	for _, answer := range answers {
		if here, client, ok := parseHandshake(answer); ok && (at.Port() == 0 || here.Port() == at.Port()) && (at.Addr().IsUnspecified() || here.Addr() == at.Addr()) {
			clients[client] = true
		}
	}
	return clients, nil
}

// askHandshakes is a struct inet_diag_req_v2.
func askHandshakes(at netip.AddrPort) []byte {
	request := make([]byte, 56)
	request[0], request[1] = unix.AF_INET6, unix.IPPROTO_TCP
	if at.Addr().Is4() {
		request[0] = unix.AF_INET
	}
	binary.NativeEndian.PutUint32(request[4:], synRecv)
	binary.BigEndian.PutUint16(request[8:], at.Port())
	return request
}

// parseHandshake reads both ends of a struct inet_diag_msg.
func parseHandshake(answer []byte) (here, client netip.AddrPort, ok bool) {
	if len(answer) < diagSize {
		return here, client, false
	}
	length := 4
	if answer[0] == unix.AF_INET6 {
		length = 16
	}
	end := func(ip, port int) netip.AddrPort {
		address, _ := netip.AddrFromSlice(answer[ip : ip+length])
		return netip.AddrPortFrom(address, binary.BigEndian.Uint16(answer[port:]))
	}
	return end(diagHereIP, diagHere), end(diagThereIP, diagThere), true
}
