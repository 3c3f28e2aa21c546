package netfilter

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// A lookup finds the split and the backend of a flow by what conntrack says of
// it: the split by what the client asked for, the backend by who answers, the
// generation by the mark. It is made once for a state of the splits, and not
// changed. Many may use it.
type lookup struct {
	settings Settings
	splits   []*lookedUp
	ports    map[servicePort]int32    // by what was asked for: index of splits
	ranges   map[serviceRange][]ports // sorted, apart from each other
	answers  map[answerer][]answering
}

type lookedUp struct {
	split    traffic.Split
	backends []traffic.Backend // the primary first
}

type servicePort struct {
	ip       netip.Addr
	protocol uint8
	port     uint16
}

type serviceRange struct {
	ip       netip.Addr
	protocol uint8
}

// ports are a run of ports of one split.
type ports struct {
	first, last uint16
	split       int32
}

// An answerer is where the replies of a split's flows may come from.
type answerer struct {
	split int32
	ip    netip.Addr
}

// answering is a backend there, at one port or, with 0, at the one asked for.
type answering struct {
	port    uint16
	backend int16
}

// A home is where a flow belongs: indices into lookup.splits and its
// backends.
type home struct {
	split   int32
	backend int16
}

func newLookup(splits []traffic.Split, settings Settings) *lookup {
	l := &lookup{
		settings: settings, splits: make([]*lookedUp, 0, len(splits)),
		ports: make(map[servicePort]int32, len(splits)), ranges: map[serviceRange][]ports{},
		answers: make(map[answerer][]answering, 2*len(splits)),
	}
	for i, s := range splits {
		l.add(int32(i), s)
	}
	for _, runs := range l.ranges {
		slices.SortFunc(runs, func(a, b ports) int { return int(a.first) - int(b.first) })
	}
	return l
}

func (l *lookup) add(i int32, s traffic.Split) {
	backends := s.Backends()
	l.splits = append(l.splits, &lookedUp{split: s, backends: backends})
	for _, ip := range s.Service.Addresses {
		for _, p := range s.Service.Ports {
			if p.IsRange() {
				at := serviceRange{ip, protocolNumber(p.Transport)}
				l.ranges[at] = append(l.ranges[at], ports{p.Number, p.Last, i})
				continue
			}
			l.ports[servicePort{ip, protocolNumber(p.Transport), p.Number}] = i
		}
	}
	for n, b := range backends {
		for _, a := range b.Addresses {
			at := answerer{i, a.IP}
			l.answers[at] = append(l.answers[at], answering{a.Port, int16(n)})
		}
	}
}

// covers says whether the lookup was made for these splits: a split that has
// changed in any way has another generation.
func (l *lookup) covers(splits []traffic.Split) bool {
	if l == nil || len(l.splits) != len(splits) {
		return false
	}
	for i, known := range l.splits {
		if known.split.Name != splits[i].Name || known.split.Generation != splits[i].Generation {
			return false
		}
	}
	return true
}

// renewed is the lookup for the splits. Where nothing but weights has changed,
// which is nearly always, it shares the maps of this one.
func (l *lookup) renewed(splits []traffic.Split) *lookup {
	if len(l.splits) != len(splits) {
		return newLookup(splits, l.settings)
	}
	next := *l
	next.splits = slices.Clone(l.splits)
	for i, known := range next.splits {
		s := &splits[i]
		switch {
		case known.split.Name == s.Name && known.split.Generation == s.Generation:
		case known.leadsLike(s):
			next.splits[i] = &lookedUp{split: *s, backends: s.Backends()}
		default:
			return newLookup(splits, l.settings)
		}
	}
	return &next
}

// leadsLike says whether flows of s are found by the same maps.
func (k *lookedUp) leadsLike(s *traffic.Split) bool {
	same := func(a, b *traffic.Backend) bool {
		return a.Name == b.Name && a.Local == b.Local && slices.Equal(a.Addresses, b.Addresses)
	}
	if k.split.Name != s.Name || len(k.split.Candidates) != len(s.Candidates) || !same(&k.split.Primary, &s.Primary) ||
		!slices.Equal(k.split.Service.Addresses, s.Service.Addresses) || !slices.Equal(k.split.Service.Ports, s.Service.Ports) {
		return false
	}
	for i := range s.Candidates {
		if !same(&k.split.Candidates[i], &s.Candidates[i]) {
			return false
		}
	}
	return true
}

// find says where the flow belongs. A flow of a relay's own, which is part of
// another flow, belongs nowhere, nor does a health check.
func (l *lookup) find(e *entry) (home, bool) {
	switch e.mark & l.settings.ClassMask() {
	case l.settings.mark(classLeg), l.settings.mark(classCheck):
		return home{}, false
	}
	asked := e.service()
	protocol := e.original.protocol
	i, ok := l.ports[servicePort{asked.Addr(), protocol, asked.Port()}]
	if !ok {
		if i, ok = l.inRange(serviceRange{asked.Addr(), protocol}, asked.Port()); !ok {
			return home{}, false
		}
	}
	b, ok := l.servedBy(i, asked, e.server())
	return home{i, b}, ok
}

func (l *lookup) inRange(at serviceRange, port uint16) (int32, bool) {
	runs, ok := l.ranges[at]
	if !ok {
		return 0, false
	}
	n, _ := slices.BinarySearchFunc(runs, port, func(r ports, port uint16) int { return int(r.last) - int(port) })
	if n == len(runs) || runs[n].first > port {
		return 0, false
	}
	return runs[n].split, true
}

// servedBy finds the backend that answers: the one whose address the replies
// come from, or, where nothing was translated, the one that stays here.
func (l *lookup) servedBy(i int32, asked, from netip.AddrPort) (int16, bool) {
	s := l.splits[i]
	if from == asked {
		for n := range s.backends {
			if s.split.StaysHere(s.backends[n], asked.Addr(), asked.Port()) {
				return int16(n), true
			}
		}
		return 0, false
	}
	for _, a := range l.answers[answerer{i, from.Addr()}] {
		if a.port == from.Port() || a.port == 0 && from.Port() == asked.Port() {
			return a.backend, true
		}
	}
	return 0, false
}

// generation is the one that gave the flow its backend; 0 where the mark does
// not tell. It may be up to ahead younger than the splits of the lookup.
func (l *lookup) generation(at home, mark uint32, ahead traffic.Generation) traffic.Generation {
	g, _ := l.settings.generationIn(mark, l.splits[at.split].split.Generation+ahead)
	return g
}

func (l *lookup) key(at home) traffic.BackendKey {
	s := l.splits[at.split]
	return traffic.BackendKey{Split: s.split.Name, Backend: s.backends[at.backend].Name}
}
