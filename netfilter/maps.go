package netfilter

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// A serviceMap is one of the maps from what clients connect to, to the split
// that serves it. Single ports are in maps of their own, because a lookup by
// hash costs the same for any number of splits.
type serviceMap struct {
	six    bool // of IPv6 services
	ranges bool // of runs of ports
	local  bool // of flows that start on this host
	relay  bool // of flows that a relay on this host has
}

// serviceMaps lists all of them, in the order in which they are made.
func serviceMaps() []serviceMap {
	var all []serviceMap
	for _, local := range []bool{false, true} {
		for _, ranges := range []bool{false, true} {
			all = append(all, serviceMap{ranges: ranges, local: local}, serviceMap{six: true, ranges: ranges, local: local})
		}
	}
	for _, ranges := range []bool{false, true} {
		all = append(all, serviceMap{ranges: ranges, relay: true}, serviceMap{six: true, ranges: ranges, relay: true})
	}
	return all
}

// maps are those that the table needs: the two of single ports, and those that
// have an element. One that had some stays, empty.
func (t table) maps() []serviceMap {
	return slices.DeleteFunc(serviceMaps(), func(m serviceMap) bool { return !m.basic() && !t.uses(m) })
}

func (t table) uses(m serviceMap) bool {
	return slices.ContainsFunc(t.elements, func(e element) bool { return e.in == m })
}

// basic says that the map is always there.
func (m serviceMap) basic() bool { return !m.ranges && !m.local && !m.relay }

// name is service4, range6, local4, local-range6 and so on.
func (m serviceMap) name() string {
	kind := "service"
	switch {
	case m.relay && m.ranges:
		kind = "relay-range"
	case m.relay:
		kind = "relay"
	case m.local && m.ranges:
		kind = "local-range"
	case m.local:
		kind = "local"
	case m.ranges:
		kind = "range"
	}
	if m.six {
		return kind + "6"
	}
	return kind + "4"
}

func mapNamed(name string) (serviceMap, bool) {
	all := serviceMaps()
	i := slices.IndexFunc(all, func(m serviceMap) bool { return m.name() == name })
	if i < 0 {
		return serviceMap{}, false
	}
	return all[i], true
}

func (m serviceMap) family() string {
	if m.six {
		return "ip6"
	}
	return "ip"
}

func (m serviceMap) text(elements []element) string {
	var b strings.Builder
	address := "ipv4_addr"
	if m.six {
		address = "ipv6_addr"
	}
	fmt.Fprintf(&b, "\tmap %s {\n\t\ttype %s . inet_proto . inet_service : verdict\n", m.name(), address)
	if m.ranges {
		b.WriteString("\t\tflags interval\n")
	}
	var texts []string
	for _, e := range listed(elements) {
		if e.in == m {
			texts = append(texts, e.text())
		}
	}
	if len(texts) > 0 {
		fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(texts, ",\n\t\t\t     "))
	}
	b.WriteString("\t}\n\n")
	return b.String()
}

// A service is what clients connect to: a key of a serviceMap.
type service struct {
	ip   netip.Addr
	port traffic.Port
}

func (s service) text() string {
	port := fmt.Sprint(s.port.Number)
	if s.port.IsRange() {
		port += fmt.Sprintf("-%d", s.port.Last)
	}
	return fmt.Sprintf("%s . %s . %s", s.ip, s.port.Transport, port)
}

// in is the map of the service, for flows from elsewhere or from this host.
func (s service) in(local bool) serviceMap {
	return serviceMap{six: s.ip.Is6(), ranges: s.port.IsRange(), local: local}
}

// A place is one key of one map.
type place struct {
	in      serviceMap
	service service
}

// An element of a serviceMap says which chain serves a service.
type element struct {
	place
	chain string
}

func (e element) text() string { return e.service.text() + " : goto " + e.chain }

func elements(s traffic.Split) []element {
	var all []element
	for _, local := range []bool{false, true} {
		if local && !s.LocalClients {
			continue
		}
		for _, ip := range s.Service.Addresses {
			for _, port := range s.Service.Ports {
				key := service{ip: ip, port: port}
				all = append(all, element{place: place{in: key.in(local), service: key}, chain: trampolineChain(s.Name)})
			}
		}
	}
	return append(all, relayElements(s)...)
}

// listed sorts elements as nft 1.0.6 lists them: it takes the bytes of the key
// for one little-endian number (concat_expr_msort_value in its
// src/expression.c).
func listed(elements []element) []element {
	key := func(e element) []byte {
		k := append(e.service.ip.AsSlice(), protocolNumber(e.service.port.Transport),
			byte(e.service.port.Number>>8), byte(e.service.port.Number))
		slices.Reverse(k)
		return k
	}
	sorted := slices.Clone(elements)
	slices.SortStableFunc(sorted, func(a, b element) int { return bytes.Compare(key(a), key(b)) })
	return sorted
}
