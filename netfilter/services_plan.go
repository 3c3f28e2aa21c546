package netfilter

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/splitd/splitd/traffic"
)

// services adds and removes elements of the maps. One that moves to another
// split of the table is removed and added in one transaction, and so are all
// that change of runs of ports: a new one may overlap an old one.
func (t tablePlan) services(served func(place) bool) {
	wanted := map[place]bool{}
	for _, e := range t.want.elements {
		wanted[e.place] = true
	}
	runs := runChanges{}
	for at := range t.have.elements {
		if wanted[at] {
			continue
		}
		when := leave
		if at.in.relay || served(at) {
			when = shut
		}
		if at.in.ranges {
			runs.change(at.in, when, at.removal())
		} else {
			t.in(when, at.removal())
		}
	}
	for _, e := range t.want.elements {
		change := []operation{addElement{element: e}}
		target, ok := t.have.elements[e.place]
		if ok {
			change = []operation{e.removal(), change[0]}
		}
		switch {
		case ok && target == e.chain:
		case e.in.ranges:
			runs.change(e.in, t.entry(e, ok), change...)
		default:
			t.in(t.entry(e, ok), change...)
		}
	}
	for _, m := range serviceMaps() {
		if r := runs[m]; len(r.all) > 0 {
			t.in(r.at, r.all...)
		}
	}
	for _, e := range t.have.foreign {
		t.in(shut, e)
	}
}

// entry is when an element comes that may move from another split. What a relay
// gets must be there before flows are drawn for it.
func (t tablePlan) entry(e element, moves bool) phase {
	if split, _, _ := nameOf(e.chain); e.in.relay || moves && !t.changing[split] {
		return leave
	}
	return enter
}

// runChanges are the changes of the maps of runs of ports, and when the last of
// each can be made.
type runChanges map[serviceMap]struct {
	at  phase
	all []operation
}

func (c runChanges) change(m serviceMap, at phase, operations ...operation) {
	r := c[m]
	r.at, r.all = max(r.at, at), append(r.all, operations...)
	c[m] = r
}

// servedBy says of what clients ask for whether one of the tables serves any of
// it, as a single port or in a run.
func servedBy(want Ruleset) func(place) bool {
	type at struct {
		local, relay bool
		ip           netip.Addr
		transport    traffic.Transport
	}
	where := func(p place) at {
		return at{local: p.in.local, relay: p.in.relay, ip: p.service.ip, transport: p.service.port.Transport}
	}
	index := sync.OnceValue(func() map[at][]traffic.Port {
		ports := map[at][]traffic.Port{}
		for _, t := range want.tables {
			for _, e := range t.elements {
				ports[where(e.place)] = append(ports[where(e.place)], e.service.port)
			}
		}
		return ports
	})
	return func(p place) bool {
		return slices.ContainsFunc(index()[where(p)], func(port traffic.Port) bool { return port.Overlaps(p.service.port) })
	}
}

func (p place) removal() removeElement {
	key, end := p.service.keys()
	return removeElement{set: p.in.name(), key: key, end: end}
}
