package traffic

import (
	"net/netip"
	"slices"
)

// Why says what decides where a client's new flows go.
type Why string

// What may decide, in the order in which it is asked.
const (
	WhyFamily   Why = "family"   // the service has no address of the client's family
	WhyBackend  Why = "backend"  // the client is a backend itself: never split
	WhyAlways   Why = "always"   // it is in the group that always goes there
	WhyAffinity Why = "affinity" // its network has drawn a number
	WhyDraw     Why = "draw"     // each flow draws anew
	WhyOnly     Why = "only"     // no candidate has a share of the draw; of flows in mode proxy alone
)

// But says why a flow that was meant for a candidate goes to the primary.
type But string

// What keeps flows from a candidate.
const (
	ButClosed But = "closed" // it is drained or switched off
	ButDown   But = "down"   // health checks have found its addresses dead
	ButNever  But = "never"  // the client is in the group that never goes there

	// These are of flows in mode proxy alone.
	ButAvoided  But = "avoided"  // connects to it have failed in a row
	ButFallback But = "fallback" // it could not be connected
)

// Side is where the new flows of one client go.
type Side struct {
	// Client is the network that decides: with affinity the client's network,
	// else the client alone.
	Client netip.Prefix
	Why    Why
	// Backend is who gets them; "" where each flow draws anew and more than one
	// may win, or where there is no service for the client.
	Backend string
	// Address is the backend's that the client keeps; invalid where each flow
	// draws, or the flow stays where it is.
	Address netip.Addr
	// Number is what the client's network has drawn, of Whole; with WhyAffinity
	// alone.
	Number Weight
	// Meant is the candidate that the flows were meant for, by the draw or by a
	// group, where But keeps them from it.
	Meant string
	But   But
	// Odds are what each backend gets where each flow draws anew: those that
	// get nothing are left out.
	Odds []Odds
	// Sample is the share that is shadowed of what the draw leaves to the primary:
	// the split's, or with WhyAffinity all or nothing by SampleNumber, which is what
	// the client's network has drawn for it, of Whole. Both are 0 where none is.
	Sample       Weight
	SampleNumber Weight
}

// Odds are a backend's chance.
type Odds struct {
	Backend string
	Weight  Weight
}

// Where says where the new flows of a client go, under the weights, groups and
// health of the state. It asks what the kernel's rules ask, in their order, and
// the relay does the same.
func (s Split) Where(client netip.Addr) Side {
	client = client.Unmap()
	side := Side{Client: netip.PrefixFrom(client, client.BitLen()), Why: WhyDraw}
	by := s.arrives(client)
	switch {
	case !by.IsValid():
		side.Why = WhyFamily
		return side
	case slices.Contains(s.NeverSplit(), client):
		side.Why = WhyBackend
		return s.settled(side, client, by, s.Primary.Name)
	}
	for _, c := range s.Candidates {
		switch {
		case !contains(c.Clients.Always, client):
		case !c.Closed:
			side.Meant, side.But, side.Why = "", "", WhyAlways
			return s.settled(side, client, by, c.Name)
		case side.Meant == "": // it draws like anybody else
			side.Meant, side.But = c.Name, ButClosed
		}
	}
	if s.Affinity != AffinitySource {
		if s.PrimaryWeight() > 0 {
			side.Sample = s.Sample
		}
		return s.odds(side, client, by)
	}
	side.Why, side.Client = WhyAffinity, s.Lots().network(client)
	side.Number = s.Lots().Number(client)
	name := s.Layout().Of(side.Number)
	if name == "" {
		name = s.Primary.Name
		side.Sample, side.SampleNumber = s.sampled(client)
	}
	return s.settled(side, client, by, name)
}

// sampled says whether a client's network is in the sample, and by what number.
func (s Split) sampled(client netip.Addr) (share, number Weight) {
	if s.Sample == 0 {
		return 0, 0
	}
	if number = s.SampleLots().Number(client); number < s.Sample {
		return Whole, number
	}
	return 0, number
}

// arrives returns an address of the family by which the client's flows come: its
// own, or the service's where proxies bring them, which speak IPv4 to one of IPv6; not
// where backends are to see the client's address. The zero Addr is none.
func (s Split) arrives(client netip.Addr) netip.Addr {
	ofFamily := func(ip netip.Addr) bool { return ip.Is4() == client.Is4() }
	switch {
	case slices.ContainsFunc(s.Service.Addresses, ofFamily):
		return client
	case s.Mode == ModeProxy && !s.Proxy.Transparent && len(s.Proxy.AcceptProxy) > 0 && len(s.Service.Addresses) > 0:
		return s.Service.Addresses[0]
	}
	return netip.Addr{}
}

// NeverSplit are the clients that always go to the primary: the backends
// themselves. A loopback address is no backend's alone.
func (s Split) NeverSplit() []netip.Addr {
	var own []netip.Addr
	for _, b := range s.Backends() {
		for _, a := range b.Addresses {
			if !a.IP.IsLoopback() && !slices.Contains(own, a.IP) {
				own = append(own, a.IP)
			}
		}
	}
	return own
}

func contains(networks []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// kept says what keeps a client's flows from a candidate, if anything.
func kept(b Backend, client, by netip.Addr) But {
	switch {
	case b.Closed:
		return ButClosed
	case b.Withdrawn(by):
		return ButDown
	case contains(b.Clients.Never, client):
		return ButNever
	}
	return ""
}

// settled says that all flows of the client are meant for that backend.
func (s Split) settled(side Side, client, by netip.Addr, name string) Side {
	side.Backend = name
	b := s.Primary
	if c, candidate := s.Candidate(name); candidate {
		b = c
		if but := kept(c, client, by); but != "" {
			side.Meant, side.But, side.Backend, b = name, but, s.Primary.Name, s.Primary
		}
	}
	side.Address = s.address(b, client, by)
	return side
}

// address is the one that a client keeps: the backend's only one, or with
// affinity the one that its network draws.
func (s Split) address(b Backend, client, by netip.Addr) netip.Addr {
	usable := b.Usable(by)
	if len(usable) == 0 || len(usable) > 1 && s.Affinity != AffinitySource {
		return netip.Addr{}
	}
	return usable[s.Lots().Address(client, len(usable))].IP
}

// odds are what a client without affinity may expect.
func (s Split) odds(side Side, client, by netip.Addr) Side {
	primary := s.PrimaryWeight()
	var odds []Odds
	for _, c := range s.Candidates {
		switch {
		case c.Weight == 0:
		case kept(c, client, by) != "":
			primary += c.Weight
			side.Meant, side.But = c.Name, kept(c, client, by)
		default:
			odds = append(odds, Odds{c.Name, c.Weight})
		}
	}
	if primary > 0 {
		odds = append([]Odds{{s.Primary.Name, primary}}, odds...)
	}
	side.Odds = odds
	if len(odds) == 1 {
		b, ok := s.Candidate(odds[0].Backend)
		if !ok {
			b = s.Primary
		}
		side.Backend, side.Address = b.Name, s.address(b, client, by)
	}
	return side
}
