package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Flow is one TCP entry of a namespace's connection tracking table.
type Flow struct {
	Client  netip.AddrPort // who began it
	Service netip.AddrPort // what he asked for
	Backend netip.AddrPort // who answers: another than Service after DNAT
	// Replied says that packets came back through this namespace; Assured
	// that the handshake was completed here.
	Replied, Assured bool
}

// Flows lists the TCP entries of the namespace's connection tracking table.
// Closed ones stay in it for a while (nf_conntrack_tcp_timeout_time_wait,
// 120 s).
func (ns *NS) Flows() ([]Flow, error) {
	var flows []Flow
	err := ns.Do(func() error {
		c, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		list, err := c.Dump(nil)
		if err != nil {
			return err
		}
		for _, f := range list {
			if f.TupleOrig.Proto.Protocol != unix.IPPROTO_TCP {
				continue
			}
			flows = append(flows, Flow{
				Client:  netip.AddrPortFrom(f.TupleOrig.IP.SourceAddress, f.TupleOrig.Proto.SourcePort),
				Service: netip.AddrPortFrom(f.TupleOrig.IP.DestinationAddress, f.TupleOrig.Proto.DestinationPort),
				Backend: netip.AddrPortFrom(f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort),
				Replied: f.Status.SeenReply(), Assured: f.Status.Assured(),
			})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list flows of %q: %w", ns.Name, err)
	}
	return flows, nil
}

// ErrNoWay says that the kernel knows no way to an address.
var ErrNoWay = errors.New("no way there")

// WayTo asks the kernel by which neighbour a packet leaves the namespace for
// an address. An invalid from means that the packet has no source address yet,
// as when a program just connects. The result is invalid when the address is
// on a network of this namespace; without any way the error is ErrNoWay.
func (ns *NS) WayTo(to, from netip.Addr) (netip.Addr, error) {
	var via netip.Addr
	err := ns.Do(func() error {
		options := &netlink.RouteGetOptions{}
		if from.IsValid() {
			options.SrcAddr = from.AsSlice()
		}
		routes, err := netlink.RouteGetWithOptions(to.AsSlice(), options)
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			return ErrNoWay
		}
		if err != nil {
			return err
		}
		for _, route := range routes {
			if gateway, ok := netip.AddrFromSlice(route.Gw); ok {
				via = gateway.Unmap()
			}
		}
		return nil
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find way to %s in %q: %w", to, ns.Name, err)
	}
	return via, nil
}
