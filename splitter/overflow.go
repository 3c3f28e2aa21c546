package splitter

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// memoryDrops is where a struct of SO_MEMINFO has the datagrams that a socket had
// no room for (SK_MEMINFO_DROPS in include/uapi/linux/sock_diag.h, Linux 4.12).
const memoryDrops = 8

// overflowOf is how many datagrams the kernel has dropped at a socket.
func overflowOf(socket int) uint64 {
	var info [memoryDrops + 1]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(socket), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || size < uint32(unsafe.Sizeof(info)) {
		return 0
	}
	return uint64(info[memoryDrops])
}

// overflow is how many datagrams of clients have found no room at the front's
// sockets. Relay.mu is held, and no worker has ended.
func (f *front) overflow() (sum uint64) {
	if !f.udp() {
		return 0
	}
	for _, socket := range f.sockets {
		sum += overflowOf(socket)
	}
	return sum
}

// overflow is that of all fronts there have been. Workers that end close sockets,
// so what it was before they could is the last that is known. r.mu is held.
func (r *Relay) overflow() uint64 {
	if r.stopped {
		return r.overflowed
	}
	sum := r.overflowed
	for _, f := range r.fronts {
		if !f.closing { // it has been added
			sum += f.overflow()
		}
	}
	return sum
}
