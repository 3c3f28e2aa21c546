package splitter

import (
	"net"

	"golang.org/x/sys/unix"
)

// multipath says whether the kernel's protocol of the socket is MPTCP.
func multipath(l *net.TCPListener) (bool, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return false, err
	}
	protocol := 0
	var failure error
	if err := raw.Control(func(fd uintptr) {
		protocol, failure = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PROTOCOL)
	}); err != nil {
		return false, err
	}
	return protocol == unix.IPPROTO_MPTCP, failure
}
