package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// End is one end of a Link: a device in a namespace with its addresses.
type End struct {
	NS        *NS
	Device    string
	Addresses []string // with prefix length: "10.0.0.1/24", "fd00::1/64"
}

// firstIndex is above the indices that the kernel gives in a young namespace.
const firstIndex = 100

// Link joins two namespaces by a veth pair. When it returns, both ends carry
// packets and have their link-local addresses; IPv6 addresses are usable at
// once (no duplicate address detection).
func Link(a, b End) error {
	devices, err := a.NS.countDevices()
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Device
	// Both ends with the same index in their namespaces would look like one
	// device to the kernel's link watch, which then lets the carrier wait for
	// up to a second (linkwatch_urgent_event, net/core/link_watch.c).
	attrs.Index = firstIndex + devices
	attrs.Namespace = netlink.NsFd(a.NS.FD())
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Device, PeerNamespace: netlink.NsFd(b.NS.FD())}
	if err := a.NS.Do(func() error { return netlink.LinkAdd(veth) }); err != nil {
		return fmt.Errorf("link %q and %q: %w", a.NS.Name, b.NS.Name, err)
	}
	for _, end := range []End{a, b} {
		if err := end.NS.AddAddresses(end.Device, end.Addresses...); err != nil {
			return err
		}
		if err := end.NS.up(end.Device); err != nil {
			return err
		}
	}
	return errors.Join(a.NS.settle(a.Device), b.NS.settle(b.Device))
}

// AddAddresses gives the device addresses, written with prefix length. When it
// returns and the device is up, they are in use.
func (ns *NS) AddAddresses(device string, addresses ...string) error {
	err := ns.withHandle(func(h *netlink.Handle) error {
		link, err := h.LinkByName(device)
		if err != nil {
			return fmt.Errorf("find device %q in %q: %w", device, ns.Name, err)
		}
		for _, text := range addresses {
			address, err := netlink.ParseAddr(text)
			if err != nil {
				return fmt.Errorf("parse address %q: %w", text, err)
			}
			if address.IP.To4() == nil {
				address.Flags = 0x02 // IFA_F_NODAD, rtnetlink(7)
			}
			if err := h.AddrAdd(link, address); err != nil {
				return fmt.Errorf("add address %q to %q in %q: %w", text, device, ns.Name, err)
			}
		}
		return nil
	})
	return errors.Join(err, ns.settle())
}

// AddRoute sends destination ("0.0.0.0/0", "::/0") to the gateway.
func (ns *NS) AddRoute(destination, gateway string) error {
	return ns.withHandle(func(h *netlink.Handle) error {
		prefix, err := netip.ParsePrefix(destination)
		if err != nil {
			return fmt.Errorf("parse route %q: %w", destination, err)
		}
		route := &netlink.Route{
			Dst: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())},
			Gw:  net.ParseIP(gateway),
		}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("add route %q by %q in %q: %w", destination, gateway, ns.Name, err)
		}
		return nil
	})
}

// countDevices is the number of devices in the namespace.
func (ns *NS) countDevices() (int, error) {
	count := 0
	err := ns.withHandle(func(h *netlink.Handle) error {
		list, err := retryDump(h.LinkList)
		count = len(list)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("list devices of %q: %w", ns.Name, err)
	}
	return count, nil
}

func (ns *NS) up(device string) error {
	return ns.withHandle(func(h *netlink.Handle) error {
		link, err := h.LinkByName(device)
		if err != nil {
			return fmt.Errorf("find device %q in %q: %w", device, ns.Name, err)
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("set device %q up in %q: %w", device, ns.Name, err)
		}
		return nil
	})
}

func (ns *NS) withHandle(fn func(*netlink.Handle) error) error {
	h, err := netlink.NewHandleAt(ns.handle)
	if err != nil {
		return fmt.Errorf("open netlink in %q: %w", ns.Name, err)
	}
	defer h.Close()
	return fn(h)
}
