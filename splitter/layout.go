package splitter

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// layout says which split is served at which address. It refuses what cannot
// be served: two splits on one address, and a backend that is the split's own
// listener, which would relay to itself for ever. Own are the addresses of this
// host; they tell what a wildcard listener covers.
func layout(splits []traffic.Split, own []netip.Addr) (map[spot]traffic.Split, error) {
	fronts := map[spot]traffic.Split{}
	taken := claims{wildcard: map[portFamily]string{}, any: map[portFamily]string{}}
	var errs []error
	for _, split := range splits {
		for _, port := range split.Service.Ports {
			for _, ip := range split.Service.Addresses {
				address := spot{netip.AddrPortFrom(ip, port.Number), port.Transport}
				if other, ok := taken.claim(fronts, split.Name, address); ok {
					errs = append(errs, fmt.Errorf("split %q: %s is also covered by split %q: give each its own address or port", split.Name, address, other))
					continue
				}
				fronts[address] = split
			}
		}
	}
	for _, address := range inOrder(fronts) {
		errs = append(errs, checkLoops(fronts[address], address, fronts, own)...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return fronts, nil
}

// inOrder lists the addresses in an order that does not change.
func inOrder(fronts map[spot]traffic.Split) []spot {
	return slices.SortedFunc(maps.Keys(fronts), spot.compare)
}

// portFamily is what a wildcard address covers.
type portFamily struct {
	port      uint16
	is4       bool
	transport traffic.Transport
}

func familyOf(address spot) portFamily {
	return portFamily{address.Port(), address.Addr().Is4(), address.transport}
}

// claims remembers by port and family who listens on the wildcard address,
// and who listens at all.
type claims struct{ wildcard, any map[portFamily]string }

// claim takes the address for the split, or returns the split that has it.
func (c claims) claim(fronts map[spot]traffic.Split, split string, address spot) (string, bool) {
	family := familyOf(address)
	if other, ok := fronts[address]; ok {
		return other.Name, true
	}
	if other, ok := c.wildcard[family]; ok {
		return other, true
	}
	if address.Addr().IsUnspecified() {
		if other, ok := c.any[family]; ok {
			return other, true
		}
		c.wildcard[family] = split
	}
	c.any[family] = split
	return "", false
}

// checkLoops finds the backends of the split that its own listeners answer
// for.
func checkLoops(split traffic.Split, address spot, fronts map[spot]traffic.Split, own []netip.Addr) []error {
	var errs []error
	for _, b := range split.Backends() {
		if err := checkFamily(split.Name, b, address.AddrPort); err != nil {
			errs = append(errs, err)
			continue
		}
		b.Down = nil // it may rise
		for _, to := range reach(b, b.Living(address.Addr()), address.AddrPort) {
			if listener, ok := coveredBy(spot{to, address.transport}, fronts, own); ok && fronts[listener].Name == split.Name {
				errs = append(errs, fmt.Errorf("split %q: backend %q is %s, where the split itself listens (%s): give the service an address that the server does not hold, or use mode: kernel",
					split.Name, b.Name, to, listener))
			}
		}
	}
	return errs
}

// coveredBy returns the front that would answer a connection to address.
func coveredBy(address spot, fronts map[spot]traffic.Split, own []netip.Addr) (spot, bool) {
	if _, ok := fronts[address]; ok {
		return address, true
	}
	ours := address.Addr().IsLoopback()
	for _, ip := range own {
		ours = ours || ip == address.Addr()
	}
	listener := address.wildcard()
	_, ok := fronts[listener]
	return listener, ok && ours
}
