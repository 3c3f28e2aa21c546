package netfilter

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How long applyReturns waits for a router that it knows nothing of to tell
// its link-layer address, and how often it looks.
const (
	resolveTime = 300 * time.Millisecond
	resolveLook = 10 * time.Millisecond
)

// States of a neighbour entry (rtnetlink(7)).
const (
	// stateKnown have a link-layer address that holds or held a moment ago.
	stateKnown = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
	// stateQuiet are those in which the kernel does not look after the entry.
	stateQuiet = netlink.NUD_STALE | netlink.NUD_FAILED
)

// readNeighbours returns the link-layer addresses of the routers of the paths
// that match by mark, as far as the kernel knows them.
func readNeighbours(want Returns) (neighbours, error) {
	known := neighbours{}
	err := eachRouter(want, func(set neighbourSet, _ netlink.Link, entry *netlink.Neigh) error {
		if entry != nil && entry.State&stateKnown != 0 && len(entry.HardwareAddr) == 6 {
			known[set.name] = entry.HardwareAddr
		}
		return nil
	})
	return known, err
}

// findNeighbours is readNeighbours, but it makes the kernel ask for what it
// does not know and waits a moment for routers that the marking table has no
// address of.
func findNeighbours(ctx context.Context, want Returns, conn *nftables.Conn) (neighbours, error) {
	if err := provoke(want); err != nil {
		return nil, err
	}
	known, err := readNeighbours(want)
	if err != nil || len(known) == len(want.sets()) {
		return known, err
	}
	m, err := readMarks(conn)
	if err != nil {
		return nil, err
	}
	deadline, look := time.NewTimer(resolveTime), time.NewTicker(resolveLook)
	defer deadline.Stop()
	defer look.Stop()
	for want.unmarked(m, known) {
		select {
		case <-ctx.Done():
			return known, nil
		case <-deadline.C:
			return known, nil
		case <-look.C:
		}
		if known, err = readNeighbours(want); err != nil {
			return nil, err
		}
	}
	return known, nil
}

// unmarked says whether a set would be empty although its device is there.
func (r Returns) unmarked(m markState, known neighbours) bool {
	for _, set := range r.sets() {
		if len(known.want(set, m.sets[set.name])) > 0 {
			continue
		}
		link, err := netlink.LinkByName(set.path.device)
		if err == nil && resolves(link) {
			return true
		}
	}
	return false
}

// resolves says whether the device is up and has link-layer addresses to ask for.
func resolves(link netlink.Link) bool {
	a := link.Attrs()
	return a.EncapType == "ether" && a.Flags&net.FlagUp != 0 && a.RawFlags&unix.IFF_NOARP == 0
}

// provoke makes the kernel resolve, or confirm again, the routers whose entry
// it does not look after by itself: replies to them may be rare, and what they
// send does not keep the entry fresh (NTF_USE, as traffic to them would).
func provoke(want Returns) error {
	return eachRouter(want, func(set neighbourSet, link netlink.Link, entry *netlink.Neigh) error {
		if !resolves(link) || entry != nil && entry.State&stateQuiet == 0 {
			return nil
		}
		err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, Family: family(set.path.via), IP: set.path.via.AsSlice(), Flags: netlink.NTF_USE,
		})
		if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("ask for neighbour %s on %q: %w", set.path.via, set.path.device, err)
		}
		return nil
	})
}

// eachRouter calls fn for each router of a path that matches by mark, with its
// device and its entry in the neighbour table, nil when there is none.
// Devices that are missing are left out.
func eachRouter(want Returns, fn func(neighbourSet, netlink.Link, *netlink.Neigh) error) error {
	for _, set := range want.sets() {
		link, err := netlink.LinkByName(set.path.device)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			continue
		}
		if err != nil {
			return fmt.Errorf("read device %q: %w", set.path.device, err)
		}
		entries, err := dump(func() ([]netlink.Neigh, error) {
			return netlink.NeighList(link.Attrs().Index, family(set.path.via))
		})
		if err != nil {
			return fmt.Errorf("list neighbours on %q: %w", set.path.device, err)
		}
		if err := fn(set, link, entryOf(entries, set.path.via)); err != nil {
			return err
		}
	}
	return nil
}

func entryOf(entries []netlink.Neigh, router netip.Addr) *netlink.Neigh {
	for i := range entries {
		if a, ok := netip.AddrFromSlice(entries[i].IP); ok && a.Unmap() == router {
			return &entries[i]
		}
	}
	return nil
}

// tunnelEnd is the far end of a tunnel device; invalid for other devices and
// for tunnels without a fixed end.
func tunnelEnd(link netlink.Link) netip.Addr {
	var far net.IP
	switch l := link.(type) {
	case *netlink.Vxlan:
		far = l.Group
	case *netlink.Geneve:
		far = l.Remote
	case *netlink.Iptun:
		far = l.Remote
	case *netlink.Ip6tnl:
		far = l.Remote
	case *netlink.Sittun:
		far = l.Remote
	case *netlink.Gretun:
		far = l.Remote
	case *netlink.Gretap:
		far = l.Remote
	}
	if len(far) == 0 || far.IsUnspecified() || far.IsMulticast() {
		return netip.Addr{}
	}
	a, _ := netip.AddrFromSlice(far)
	return a.Unmap()
}
