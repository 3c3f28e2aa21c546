package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// End is one end of a Link: a device in a namespace with its addresses.
type End struct {
	NS        *NS
	Device    string
	Addresses []string // with prefix length: "10.0.0.1/24", "fd00::1/64"
}

// Link joins two namespaces by a veth pair. When it returns, both ends carry
// packets and have their link-local addresses; IPv6 addresses are usable at
// once (no duplicate address detection).
func Link(a, b End) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Device
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
	return errors.Join(a.settle(), b.settle())
}

// settle waits for what the kernel does by itself a moment after a device is
// set up: the carrier, and the link-local address with its routes.
func (e End) settle() error {
	for range 5000 {
		ready := false
		err := e.NS.Do(func() (err error) {
			ready, err = settled(e.Device)
			return err
		})
		if err != nil {
			return fmt.Errorf("look at device %q in %q: %w", e.Device, e.NS.Name, err)
		}
		if ready {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("set up device %q in %q: no carrier or no link-local address after 5 s", e.Device, e.NS.Name)
}

func settled(device string) (bool, error) {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return false, err
	}
	if link.Attrs().RawFlags&unix.IFF_RUNNING == 0 {
		return false, nil
	}
	disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + device + "/disable_ipv6")
	if err != nil || strings.TrimSpace(string(disabled)) != "0" {
		return true, nil // a kernel without IPv6
	}
	addresses, err := retryDump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V6) })
	return slices.ContainsFunc(addresses, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }), err
}

// AddAddresses gives the device addresses, written with prefix length.
func (ns *NS) AddAddresses(device string, addresses ...string) error {
	return ns.withHandle(func(h *netlink.Handle) error {
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
