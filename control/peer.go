package control

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peer is who is at the other end of a connection, as the kernel recorded it
// when the peer connected (SO_PEERCRED, unix(7)).
type Peer struct {
	PID int // 0: the peer lives in a PID namespace that we cannot see
	UID uint32
	GID uint32
	// Groups are the supplementary groups (SO_PEERGROUPS, Linux 4.13).
	Groups []uint32
}

// Owner is who may change what the daemon does, besides root.
type Owner struct {
	UID      uint32 // the daemon's own
	GID      uint32 // the control group, if there is one
	HasGroup bool
}

// overflowID is what the kernel shows in place of an id that has no mapping
// in our user namespace (user_namespaces(7)): it is everyone and no one.
const overflowID = 65534

// MayChange says whether the peer may change what the daemon does: root, the
// daemon's own user, and the control group, by the peer's primary or
// supplementary groups. An id without mapping here is never the one meant.
func MayChange(peer Peer, owner Owner) bool {
	switch {
	case peer.UID == 0:
		return true
	case peer.UID == owner.UID && peer.UID != overflowID:
		return true
	case owner.HasGroup && owner.GID != overflowID:
		return peer.GID == owner.GID || slices.Contains(peer.Groups, owner.GID)
	}
	return false
}

// PeerOf asks the kernel who is at the other end.
func PeerOf(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("read peer credentials: %w", err)
	}
	var peer Peer
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = peerOf(int(fd)) }); err != nil {
		return Peer{}, fmt.Errorf("read peer credentials: %w", err)
	}
	return peer, failed
}

func peerOf(fd int) (Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("read peer credentials: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return Peer{}, fmt.Errorf("read groups of peer %d: %w", cred.Pid, err)
	}
	return Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid, Groups: groups}, nil
}

// peerGroups reads SO_PEERGROUPS; x/sys has no function for an option of
// variable length. Before Linux 4.13 there is no such option, and then there
// are no supplementary groups: /proc/PID/status would tell of whoever has the
// pid by now.
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		length := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&length)), 0)
		switch {
		case errno == 0:
			return groups[:length/4], nil
		case errors.Is(errno, unix.ERANGE) && int(length/4) > len(groups):
			groups = make([]uint32, length/4) // the kernel has told us how many
		case errors.Is(errno, unix.ENOPROTOOPT):
			return nil, nil
		default:
			return nil, errno
		}
	}
}
