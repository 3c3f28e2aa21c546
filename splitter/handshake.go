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

// incoming are the clients on the way in to each of some addresses.
type incoming map[netip.AddrPort]map[netip.AddrPort]bool

// handshakes lists the clients that a listener at each of the addresses has answered
// (the unspecified address is any of its family, with port 0 at any port) and that have
// not acknowledged it yet: they are not in its queue, and yet the close of the listener
// resets them. Those that the kernel answered by SYN cookies leave no trace and are not
// listed. It asks the kernel of the calling thread's namespace, once for each family,
// since it looks at all its sockets each time, and needs no capability.
func handshakes(at ...netip.AddrPort) (incoming, error) {
	coming := incoming{}
	ports := map[uint8]uint16{} // to ask for, by family; 0 is all
	for _, a := range at {
		coming[a] = map[netip.AddrPort]bool{}
		port, asked := ports[diagFamily(a)]
		if asked && port != a.Port() {
			port = 0
		} else {
			port = a.Port()
		}
		ports[diagFamily(a)] = port
	}
	for family, port := range ports {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddRawData(askHandshakes(family, port))
		answers, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
		if err != nil {
			return nil, fmt.Errorf("list handshakes: %w", err)
		}
		for _, answer := range answers {
			if here, client, ok := parseHandshake(answer); ok {
				coming.add(here, client)
			}
		}
	}
	return coming, nil
}

// add notes a client with all who are asked by it.
func (c incoming) add(here, client netip.AddrPort) {
	all := spot{AddrPort: here}.wildcard().Addr()
	for _, asked := range [...]netip.AddrPort{here, netip.AddrPortFrom(all, here.Port()), netip.AddrPortFrom(all, 0)} {
		if clients, ok := c[asked]; ok {
			clients[client] = true
		}
	}
}

func diagFamily(at netip.AddrPort) uint8 {
	if at.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// askHandshakes is a struct inet_diag_req_v2.
func askHandshakes(family uint8, port uint16) []byte {
	request := make([]byte, 56)
	request[0], request[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(request[4:], synRecv)
	binary.BigEndian.PutUint16(request[8:], port)
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
