package doctor

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// readLoops asks, for each tunnel and each rule that looks at the packet mark,
// where the kernel would send the tunnel's marked outer packets.
func (h *Host) readLoops() error {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		remote := farEnd(l)
		if !remote.IsValid() || remote.IsMulticast() || remote.IsUnspecified() {
			continue
		}
		for _, rule := range h.Rules {
			if rule.Mark == 0 {
				continue
			}
			routes, err := netlink.RouteGetWithOptions(remote.AsSlice(), &netlink.RouteGetOptions{Mark: rule.Mark})
			if err == nil && len(routes) > 0 && routes[0].LinkIndex == l.Attrs().Index {
				h.Loops = append(h.Loops, Loop{Device: l.Attrs().Name, Remote: remote, Rule: rule})
			}
		}
	}
	return nil
}

// farEnd is where a tunnel's outer packets go; invalid for other devices and
// for wireguard, which keeps no packet mark.
func farEnd(l netlink.Link) netip.Addr {
	switch l := l.(type) {
	case *netlink.Vxlan:
		return addrOf(l.Group)
	case *netlink.Geneve:
		return addrOf(l.Remote)
	case *netlink.Iptun:
		return addrOf(l.Remote)
	case *netlink.Ip6tnl:
		return addrOf(l.Remote)
	case *netlink.Sittun:
		return addrOf(l.Remote)
	case *netlink.Gretun:
		return addrOf(l.Remote)
	case *netlink.Gretap:
		return addrOf(l.Remote)
	}
	return netip.Addr{}
}
