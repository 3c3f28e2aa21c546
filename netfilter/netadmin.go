package netfilter

import (
	"errors"

	"golang.org/x/sys/unix"
)

// PrioritySplit is where our destination translation is hooked (nat
// prerouting), for who looks for what comes before it.
const PrioritySplit = prioritySplit

// ChainClamp is the chain of ours that keeps TCP segments small enough.
const ChainClamp = chainClamp

// HasNetAdmin says whether this process may program its network namespace:
// CAP_NET_ADMIN in the user namespace that owns it (capabilities(7)).
func HasNetAdmin() bool {
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil || sets[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return false
	}
	// Root of a user namespace has every capability, but not over the network
	// namespace of the machine: ask the kernel something that needs it.
	conn, socket, err := Dial()
	if err != nil {
		return false
	}
	defer func() { _ = socket.Close() }()
	_, err = conn.GetGen()
	return !errors.Is(err, unix.EPERM)
}
