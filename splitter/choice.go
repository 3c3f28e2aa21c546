package splitter

import (
	"fmt"
	"net/netip"

	"github.com/splitd/splitd/traffic"
)

// choice is what a front does with the connections that it accepts. It is
// never changed, only replaced as a whole, so that a connection sees either
// the old weights or the new ones.
type choice struct {
	split      string
	proxy      traffic.Proxy
	gate       *gate
	primary    target
	candidates []target
}

// target is a backend as one front reaches it.
type target struct {
	name     string
	address  string // IP:port
	endpoint *endpoint
	weight   traffic.Weight
	counter  *counter
	circuit  *circuit // nil: it is tried whatever became of others
}

// newChoice makes the choice of a front at address, as yet without gate, counters
// and circuits.
func newChoice(split traffic.Split, address netip.AddrPort) (*choice, error) {
	c := &choice{split: split.Name, proxy: split.Proxy}
	for i, b := range split.Backends() {
		to, err := reach(split.Name, b, address)
		if err != nil {
			return nil, err
		}
		t := target{name: b.Name, address: to.String(), endpoint: newEndpoint(to), weight: b.Weight}
		if i == 0 {
			c.primary = t
		} else {
			c.candidates = append(c.candidates, t)
		}
	}
	return c, nil
}

// reach returns where a front at address finds the backend: this host is the
// loopback address of the same family, and a port not given is kept.
func reach(split string, b traffic.Backend, address netip.AddrPort) (netip.AddrPort, error) {
	if b.Local {
		loopback := netip.IPv6Loopback()
		if address.Addr().Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return netip.AddrPortFrom(loopback, address.Port()), nil
	}
	to, ok := b.Address(address.Addr())
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("backend %q of split %q: no address of the family of %s: give it one, or take the address from the service",
			b.Name, split, address.Addr())
	}
	port := to.Port
	if port == 0 {
		port = address.Port()
	}
	return netip.AddrPortFrom(to.IP, port), nil
}

// pick returns the backend for a draw out of [0, Whole): the candidates own
// the lowest parts in their order, the primary the rest.
func (c *choice) pick(draw traffic.Weight) *target {
	for i := range c.candidates {
		if draw < c.candidates[i].weight {
			return &c.candidates[i]
		}
		draw -= c.candidates[i].weight
	}
	return &c.primary
}
