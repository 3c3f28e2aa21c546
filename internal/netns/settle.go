package netns

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settle waits for what the kernel does by itself a moment after a device is
// set up or gets an address: the carrier and the link-local address of the
// devices, and that every IPv6 address in use has its route and is no longer
// tentative, which even without duplicate address detection takes a moment.
func (ns *NS) settle(devices ...string) error {
	const patience = 5 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		missing := ""
		err := ns.Do(func() (err error) {
			missing, err = unsettled(devices)
			return err
		})
		if err != nil {
			return fmt.Errorf("look at the devices of %q: %w", ns.Name, err)
		}
		if missing == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("set up %q: %s after %s", ns.Name, missing, patience)
		}
	}
}

// unsettled says what is still missing in the calling thread's namespace.
func unsettled(devices []string) (string, error) {
	links, err := retryDump(netlink.LinkList)
	if err != nil {
		return "", err
	}
	addresses, err := retryDump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return "", err
	}
	local, err := localAddresses()
	if err != nil {
		return "", err
	}
	for _, link := range links {
		own := slices.DeleteFunc(slices.Clone(addresses), func(a netlink.Addr) bool { return a.LinkIndex != link.Attrs().Index })
		if missing := unsettledDevice(link, own, local, slices.Contains(devices, link.Attrs().Name)); missing != "" {
			return fmt.Sprintf("device %q has %s", link.Attrs().Name, missing), nil
		}
	}
	return "", nil
}

func unsettledDevice(link netlink.Link, own []netlink.Addr, local map[string]bool, mustRun bool) string {
	if link.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		if mustRun {
			return "no carrier"
		}
		return "" // its addresses are not in use
	}
	linkLocal := false
	for _, a := range own {
		linkLocal = linkLocal || a.IP.IsLinkLocalUnicast()
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			return fmt.Sprintf("the tentative address %s", a.IP)
		}
		if !local[a.IP.String()] {
			return fmt.Sprintf("no route to its own address %s", a.IP)
		}
	}
	if mustRun && !linkLocal && speaksIPv6(link.Attrs().Name) {
		return "no link-local address"
	}
	return ""
}

// localAddresses are the IPv6 addresses that packets are taken in for.
func localAddresses() (map[string]bool, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL}
	routes, err := retryDump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return nil, err
	}
	local := make(map[string]bool, len(routes))
	for _, route := range routes {
		if route.Dst != nil {
			local[route.Dst.IP.String()] = true
		}
	}
	return local, nil
}

// speaksIPv6 is false where the kernel has no IPv6, or not on this device.
func speaksIPv6(device string) bool {
	disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + device + "/disable_ipv6")
	return err == nil && strings.TrimSpace(string(disabled)) == "0"
}
