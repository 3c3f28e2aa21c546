package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// TestMain gives the package a loopback of its own: no port is taken by
// another program, and settings of the namespace may be changed.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(runChild())
	}
	if os.Getenv(serverEnv) != "" {
		fmt.Fprintln(os.Stderr, "server:", serveUntilKilled(os.Getenv(serverEnv)))
		os.Exit(1)
	}
	if netns.Inside() {
		if err := prepareLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			os.Exit(1)
		}
	}
	nettest.Main(m)
}

func prepareLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return setLocalPorts(ephemeralFirst, 65000)
}

// ephemeralFirst is the first port that the kernel hands out by itself; the
// tests' services stand below.
const ephemeralFirst = 20000

// scarcePorts are the first of some that only a test of their lack uses.
const scarcePorts = 19000

func setLocalPorts(first, last int) error {
	return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", first, last), 0o644)
}

// addLoopback gives the loopback an address for the time of a test.
func addLoopback(t testing.TB, ip netip.Addr) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	address := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(lo, address); err != nil {
		t.Fatalf("add address %s: %v", ip, err)
	}
	t.Cleanup(func() { _ = netlink.AddrDel(lo, address) })
}
