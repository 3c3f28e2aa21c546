package splitter

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/splitd/splitd/traffic"
)

// choice is what a front does with the connections that it accepts. It is
// never changed, only replaced as a whole, so that a connection sees either
// the old state of the split or the new one, without a lock.
type choice struct {
	*standing
	*rules
	generation traffic.Generation
}

// standing is what of a choice no weight changes: a split may have thousands of fronts,
// which all make another choice then.
type standing struct {
	split      string
	service    netip.AddrPort // the front's
	transport  traffic.Transport
	proxy      traffic.Proxy
	udpTimeout time.Duration // of flows of UDP; 0: as conntrack has it
	gate       *gate
	primary    party
	candidates []party

	inlet       *inlet // where the kernel hands flows over; nil: it is the relay's own split
	masqueraded bool   // of an inlet: its flows have this host's address
}

// rules are what all fronts of a split ask alike.
type rules struct {
	never  []netip.Addr // clients that are the primary's: the backends themselves
	affine bool         // client networks draw, by lots
	lots   traffic.Lots
	runs   []run // of the draw, from 0 on; what is behind the last is the primary's

	sample     traffic.Weight // of the primary's flows; see samples
	sampleLots traffic.Lots

	proxies traffic.Networks // whose connections begin with a PROXY header

	asked traffic.Service // of an inlet: what its flows have asked for
}

func rulesOf(split traffic.Split) *rules {
	return &rules{
		never: split.NeverSplit(), affine: split.Affinity == traffic.AffinitySource, lots: split.Lots(), runs: runsOf(split),
		sample: split.Sample, sampleLots: split.SampleLots(),
		proxies: traffic.NewNetworks(split.Proxy.AcceptProxy),
	}
}

// restated are the rules of the same split with other weights.
func (r *rules) restated(split traffic.Split) *rules {
	next := *r
	next.runs, next.sample = runsOf(split), split.Sample
	return &next
}

// restated is the choice of the same split with other weights, whose backends are
// as they were.
func (c *choice) restated(split traffic.Split, rules *rules) *choice {
	return &choice{standing: c.standing, rules: rules, generation: split.Generation}
}

// party is a backend as one front reaches it.
type party struct {
	name          string
	targets       []target    // which share its flows equally
	shut          traffic.But // why flows that are meant for it go to the primary; "": they do not
	always, never traffic.Networks
}

// target is one address of a backend.
type target struct {
	name     string // the backend's
	at       netip.AddrPort
	address  string // the same as text
	endpoint *endpoint
	counter  *counter
	circuit  *circuit // nil: it is tried whatever became of others
}

// run is a part of the draw: the numbers below its end that no run before it
// has.
type run struct {
	end   int32 // a number of the draw
	party int32 // of the candidates; -1 is the primary
}

// newChoice makes the choice of a front at address, as yet without gate, groups,
// counters and circuits. The rules are those of the split.
func newChoice(split traffic.Split, rules *rules, address spot) (*choice, error) {
	c := &choice{rules: rules, generation: split.Generation, standing: &standing{
		split: split.Name, service: address.AddrPort, transport: address.transport, proxy: split.Proxy, udpTimeout: split.UDPTimeout,
	}}
	for i, b := range split.Backends() {
		p, err := newParty(split.Name, b, address.AddrPort)
		switch {
		case err != nil:
			return nil, err
		case i == 0:
			c.primary = p
		default:
			c.candidates = append(c.candidates, p)
		}
	}
	return c, nil
}

// toPrimary is the choice of a front that goes, for an address of which the
// split has no backends any more: the primary of before serves who comes yet.
func (c *choice) toPrimary() *choice {
	alone := *c.standing
	alone.candidates = nil
	return &choice{standing: &alone, rules: &rules{proxies: c.proxies}, generation: c.generation}
}

func newParty(split string, b traffic.Backend, address netip.AddrPort) (party, error) {
	if err := checkFamily(split, b, address); err != nil {
		return party{}, err
	}
	p := party{name: b.Name}
	switch {
	case b.Closed:
		p.shut = traffic.ButClosed
	case b.Withdrawn(address.Addr()):
		p.shut = traffic.ButDown
	}
	for _, at := range reach(b, b.Usable(address.Addr()), address) {
		p.targets = append(p.targets, target{name: b.Name, at: at, address: at.String(), endpoint: newEndpoint(at)})
	}
	return p, nil
}

// checkFamily refuses a backend that a front at address cannot reach.
func checkFamily(split string, b traffic.Backend, address netip.AddrPort) error {
	if _, ok := b.Address(address.Addr()); !ok && !b.Local {
		return fmt.Errorf("backend %q of split %q: no address of the family of %s: give it one, or take the address from the service",
			b.Name, split, address.Addr())
	}
	return nil
}

// reach returns where a front at address finds those addresses of the backend:
// this host is the loopback address of the same family, and a port not given is
// kept.
func reach(b traffic.Backend, addresses []traffic.Address, address netip.AddrPort) []netip.AddrPort {
	if b.Local {
		loopback := netip.IPv6Loopback()
		if address.Addr().Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return []netip.AddrPort{netip.AddrPortFrom(loopback, address.Port())}
	}
	all := make([]netip.AddrPort, 0, len(addresses))
	for _, a := range addresses {
		all = append(all, netip.AddrPortFrom(a.IP, cmp.Or(a.Port, address.Port())))
	}
	return all
}

// runsOf is the layout of the draw.
func runsOf(split traffic.Split) []run {
	parties := make(map[string]int32, len(split.Candidates))
	for i, c := range split.Candidates {
		parties[c.Name] = int32(i)
	}
	layout := split.Layout()
	runs := make([]run, 0, 2*len(layout))
	next := traffic.Weight(0)
	for _, slot := range layout {
		if slot.First > next {
			runs = append(runs, run{end: int32(slot.First), party: -1})
		}
		next = slot.Last + 1
		runs = append(runs, run{end: int32(next), party: parties[slot.Candidate]})
	}
	return runs
}

// reason is what led a flow to its backend.
type reason struct {
	why traffic.Why
	but traffic.But // and meant, where something keeps it from the candidate that it was meant for
	// meant is the name of that candidate.
	meant string
}

// pick returns the backend of a client's new flow, and why it is that one. It
// does what the rules of the kernel plane do, and what traffic.Split.Where tells;
// draw is asked for a number where each flow draws anew.
func (c *choice) pick(client netip.Addr, draw func() traffic.Weight) (*party, reason) {
	if slices.Contains(c.never, client) {
		return &c.primary, reason{why: traffic.WhyBackend}
	}
	meant, why := c.meant(client, draw)
	switch {
	case meant.shut != "":
		return &c.primary, reason{why, meant.shut, meant.name}
	case meant.never.Contain(client):
		return &c.primary, reason{why, traffic.ButNever, meant.name}
	}
	return meant, reason{why: why}
}

// meant is who would get the flow if nothing kept it from there.
func (c *choice) meant(client netip.Addr, draw func() traffic.Weight) (*party, traffic.Why) {
	for i := range c.candidates {
		if c.candidates[i].always.Contain(client) {
			return &c.candidates[i], traffic.WhyAlways
		}
	}
	why, number := traffic.WhyDraw, traffic.Weight(0)
	if c.affine {
		why, number = traffic.WhyAffinity, c.lots.Number(client)
	} else {
		number = draw()
	}
	if len(c.runs) == 0 {
		why = traffic.WhyOnly
	}
	return c.owner(number), why
}

// owner is whose that number of the draw is.
func (c *choice) owner(number traffic.Weight) *party {
	i, _ := slices.BinarySearchFunc(c.runs, number, func(r run, number traffic.Weight) int { return cmp.Compare(r.end, int32(number)+1) })
	if i == len(c.runs) || c.runs[i].party < 0 {
		return &c.primary
	}
	return &c.candidates[c.runs[i].party]
}

// takes says whether new flows of the flow's client may go to the backend that it
// is at.
func (c *choice) takes(f *flow) bool {
	if c.split != f.choice.split {
		return false
	}
	i := slices.IndexFunc(c.candidates, func(p party) bool { return p.name == f.target.name })
	if i < 0 {
		return c.primary.name == f.target.name
	}
	p := &c.candidates[i]
	drawn := slices.ContainsFunc(c.runs, func(r run) bool { return int(r.party) == i })
	return p.shut == "" && (drawn || p.always.Contain(f.client.Addr()))
}

// address says which of the backend's addresses the flow goes to.
func (c *choice) address(p *party, client netip.Addr, draw func() traffic.Weight) int {
	switch n := len(p.targets); {
	case n == 1:
		return 0
	case c.affine:
		return c.lots.Address(client, n)
	default:
		return int(int64(draw()) * int64(n) / int64(traffic.Whole))
	}
}
