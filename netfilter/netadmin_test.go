package netfilter

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

func TestNetAdminIsKnownFromTheCapabilityOverThisNamespace(t *testing.T) {
	t.Parallel()
	ns := nettest.New(t, "ours")
	ns.Do(func() error {
		if !HasNetAdmin() {
			t.Error("HasNetAdmin() = false in a namespace of our own")
		}
		// The thread ends with this function, and its lack with it.
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var sets [2]unix.CapUserData
		if err := unix.Capget(&header, &sets[0]); err != nil {
			return err
		}
		sets[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&header, &sets[0]); err != nil {
			return err
		}
		if HasNetAdmin() {
			t.Error("HasNetAdmin() = true without the capability")
		}
		return nil
	})
}
