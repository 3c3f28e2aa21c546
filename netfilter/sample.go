package netfilter

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// The sampled redirect hands a share of the primary's new flows to a relay on
// this host, which shadows them. Where the rules of the splits send a flow is
// drawn once, in their nat hook; a sampled one is sent to the primary like any
// other, but its mark is another class. Behind the translation (chainDivert)
// each packet of such a flow is given to the relay's socket, if there is one: a
// flow whose relay does not listen goes on to the primary.
//
// The relay finds the primary as the address that its socket is bound to. For
// its own flow there it takes the client's address and Settings.LegMark, by
// which the replies find their way back to it, also those of a server on this
// very host.
const (
	chainDivert          = "divert"
	chainDivertLocal     = "divert-local"
	chainDispatchSampled = "dispatch-sampled"
	kindSampled          = "sampled"
	kindRelay            = "relay"
)

// portOfNone is a port at which no transparent socket listens (tcpmux,
// RFC 1078).
const portOfNone = 1

// sampledChain is where sampled flows are sent to the primary; relayChain hands
// their packets to the relay.
func sampledChain(split string) string { return splitPrefix + split + "/" + kindSampled }
func relayChain(split string) string   { return splitPrefix + split + "/" + kindRelay }

// hasRelay says whether a relay may have flows of the split.
func hasRelay(s traffic.Split) bool { return s.SamplePort != 0 }

// sampleOf is the share of the primary's flows that the relay gets.
func sampleOf(s traffic.Split) traffic.Weight {
	if !hasRelay(s) {
		return 0
	}
	return s.Sample
}

func samples(s traffic.Split) bool { return sampleOf(s) > 0 }

// sampledClass is the class of the flows that the relay gets.
func sampledClass(s traffic.Split) markClass {
	if s.Return == traffic.ReturnMasquerade {
		return classSampledOut
	}
	return classSampled
}

// sampleRules draw first for the candidates and then, of what is the primary's,
// for the sample.
func sampleRules(s traffic.Split) []rule {
	primary := backendChain(s.Name, traffic.RolePrimary, s.Primary.Name)
	var rules []rule
	add := func(statements ...statement) { rules = append(rules, rule{statements: statements}) }
	candidates := slices.DeleteFunc(drawShares(s), func(p share) bool { return p.chain == primary })
	if len(candidates) > 0 {
		for _, by := range lots(s, s.Seed()) {
			add(draw{by: by, shares: candidates})
		}
	}
	sampled := share{last: uint32(sampleOf(s)) - 1, chain: sampledChain(s.Name)}
	for _, by := range lots(s, s.SampleSeed()) {
		add(draw{by: by, shares: []share{sampled}})
	}
	add(goTo(primary))
	return rules
}

// relayChains hand the packets of a split's sampled flows to its relay.
func relayChains(s traffic.Split, settings Settings) []chain {
	if !hasRelay(s) {
		return nil
	}
	c := chain{name: relayChain(s.Name)}
	for _, t := range transports(s) {
		for _, six := range []bool{false, true} {
			if serves(s, six) {
				c.rules = append(c.rules, settings.handOver(t, six, s.SamplePort))
			}
		}
	}
	return []chain{c}
}

// handOver hands packets to a transparent socket and lets the ip rule find them.
func (s Settings) handOver(t traffic.Transport, six bool, port uint16) rule {
	to := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if six {
		to = netip.IPv6Loopback()
	}
	return rule{statements: []statement{
		transport{name: t}, handOver{to: netip.AddrPortFrom(to, port)}, s.markDiverted(), accept(),
	}}
}

// markDiverted lets the ip rule find a packet that a socket of this host gets,
// whatever its destination.
func (s Settings) markDiverted() markPacket {
	return markPacket{keep: s.keep(), value: s.mark(classSampled)}
}

func transports(s traffic.Split) []traffic.Transport {
	return slices.DeleteFunc([]traffic.Transport{traffic.TCP, traffic.UDP}, func(t traffic.Transport) bool {
		return !slices.ContainsFunc(s.Service.Ports, func(p traffic.Port) bool { return p.Transport == t })
	})
}

// relayElements lead to the relay of the split from what clients ask for.
func relayElements(s traffic.Split) []element {
	if !hasRelay(s) {
		return nil
	}
	var all []element
	for _, ip := range s.Service.Addresses {
		for _, port := range s.Service.Ports {
			key := service{ip: ip, port: port}
			in := serviceMap{six: ip.Is6(), ranges: port.IsRange(), relay: true}
			all = append(all, element{place: place{in: in, service: key}, chain: relayChain(s.Name)})
		}
	}
	return all
}

// divertChains are those by which the packets of all sampled flows of the table
// come to relays, and the replies to the relays' own flows. Established
// connections of a service that is no longer sampled are the relay's until they
// end.
func (t table) divertChains(settings Settings) []chain {
	dispatch := chain{name: chainDispatchSampled}
	for _, m := range t.maps() {
		for _, transport := range []traffic.Transport{traffic.TCP, traffic.UDP} {
			asked := func(e element) bool { return e.in == m && e.service.port.Transport == transport }
			if m.relay && slices.ContainsFunc(t.elements, asked) {
				dispatch.rules = append(dispatch.rules, rule{statements: []statement{dispatchOriginal{services: m, transport: transport}}})
			}
		}
	}
	for _, six := range []bool{false, true} {
		dispatch.rules = append(dispatch.rules, settings.handOver(traffic.TCP, six, portOfNone))
	}
	ofClass := func(class markClass) marked { return marked{mask: settings.ClassMask(), value: settings.mark(class)} }
	noted, reply := settings.legRules()
	divert := chain{name: chainDivert, hook: &hook{kind: kindFilter, name: hookPrerouting, priority: priorityDivert}}
	for _, class := range []markClass{classSampled, classSampledOut} {
		divert.rules = append(divert.rules, rule{statements: []statement{ofClass(class), direction{}, goTo(chainDispatchSampled)}})
	}
	divert.rules = append(divert.rules, reply)
	return []chain{dispatch, divert, {
		name:  chainDivertLocal,
		hook:  &hook{kind: kindRoute, name: hookOutput, priority: priorityDivertLocal},
		rules: []rule{noted, reply},
	}}
}

// sample is the share of the primary's flows that a version gives to a relay.
func (o observed) sample(version string) traffic.Weight {
	for _, r := range o.chains[version].rules {
		for _, p := range r.shares {
			if _, kind, _ := nameOf(p.chain); kind == kindSampled {
				return traffic.Weight(p.last - p.first + 1)
			}
		}
	}
	return 0
}
