package netfilter

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/traffic"
)

// ruled is what the kernel has of tables of splits: rules, and what rules look
// up, which a packet may find at another moment.
type ruled struct {
	chains   map[string]chain
	groups   map[string]map[network]bool
	places   map[place]string
	counters map[string]uint64
}

func newRuled() ruled {
	return ruled{chains: map[string]chain{}, groups: map[string]map[network]bool{}, places: map[place]string{}, counters: map[string]uint64{}}
}

// after is what a transaction makes of it.
func (r ruled) after(t *testing.T, all []step) ruled {
	t.Helper()
	next := ruled{chains: maps.Clone(r.chains), groups: map[string]map[network]bool{}, places: maps.Clone(r.places), counters: maps.Clone(r.counters)}
	removed := map[string][]int{}
	for name, networks := range r.groups {
		next.groups[name] = maps.Clone(networks)
	}
	for _, s := range all {
		switch o := s.operation.(type) {
		case addChain:
			next.chains[o.chain.name] = o.chain
		case replaceRules:
			next.chains[o.chain.name] = o.chain
		case replaceRule:
			next.chains[o.chain] = chain{name: o.chain, rules: []rule{o.rule}}
		case removeRule:
			removed[o.chain] = append(removed[o.chain], int(o.handle))
		case addGroup:
			next.groups[o.set] = map[network]bool{}
		case addNetworks:
			for _, n := range o.networks {
				for other := range next.groups[o.group] {
					if !n.before(other) && !other.before(n) {
						t.Fatalf("%s is added to %s and overlaps %s", n.text(), o.group, other.text())
					}
				}
				next.groups[o.group][n] = true
			}
		case removeNetworks:
			for _, n := range o.networks {
				delete(next.groups[o.group], n)
			}
		case addElement:
			next.places[o.element.place] = o.element.chain
		case removeElement:
			maps.DeleteFunc(next.places, func(p place, _ string) bool {
				key, _ := p.service.keys()
				return p.in.name() == o.set && slices.Equal(key, o.key)
			})
		case addCounter:
			next.counters[o.name] = 0
		case addTable, addMap:
		default:
			t.Fatalf("the model knows no %T", o)
		}
	}
	for name, handles := range removed {
		c := chain{name: name}
		for i, r := range next.chains[name].rules {
			if !slices.Contains(handles, i+1) {
				c.rules = append(c.rules, r)
			}
		}
		next.chains[name] = c
	}
	return next
}

// sight is what splitd reads of it.
func (r ruled) sight() sight {
	o := missing(TableSplits)
	o.exists = len(r.chains) > 0
	for name, c := range r.chains {
		seen := observedChain{hook: c.hook}
		for i, wanted := range c.rules {
			rule := observedRule{handle: uint64(i + 1), identity: wanted.identity(), comment: wanted.comment}
			if v, ok := wanted.statements[len(wanted.statements)-1].(verdict); ok && v.kind == expr.VerdictGoto {
				rule.leads = v.chain
				if len(wanted.statements) == 1 {
					rule.target = v.chain
				}
			}
			seen.rules = append(seen.rules, rule)
		}
		o.chains[name] = seen
	}
	for _, m := range serviceMaps() {
		o.maps[m] = true
	}
	maps.Copy(o.counters, r.counters)
	maps.Copy(o.groups, r.groups)
	maps.Copy(o.elements, r.places)
	return sight{TableSplits: o}
}

// A packet is a client's first one. Its draws are numbers of the million.
type packet struct {
	from  netip.Addr
	to    place
	drawn uint32
}

const unsplit = "nowhere"

// way is the chain of the backend that the packet is sent to.
func (r ruled) way(p packet) string {
	at, ok := r.places[p.to]
	if !ok {
		return unsplit
	}
	for range 10 {
		next := r.pass(r.chains[at], p)
		if next == "" {
			return at
		}
		at = next
	}
	return "in a circle"
}

// pass is where the rules of a chain send the packet, "" when it stays there.
func (r ruled) pass(c chain, p packet) string {
rules:
	for _, rule := range c.rules {
		for _, s := range rule.statements {
			switch s := s.(type) {
			case source:
				if s.ip != p.from {
					continue rules
				}
			case member:
				if !r.has(s.set, p.from) {
					continue rules
				}
			case count:
				return ""
			case draw:
				i := slices.IndexFunc(s.shares, func(h share) bool { return h.first <= p.drawn && p.drawn <= h.last })
				if i < 0 {
					continue rules
				}
				return s.shares[i].chain
			case verdict:
				return s.chain
			}
		}
	}
	return ""
}

func (r ruled) has(set string, ip netip.Addr) bool {
	at := network{first: string(ip.AsSlice()), end: string(ip.Next().AsSlice())}
	for n := range r.groups[set] {
		if !n.before(at) && !at.before(n) {
			return true
		}
	}
	return false
}

// between are the moments that a packet can meet in a transaction: the rules of
// before or of after it, and each set and the maps as before or as after it.
func between(before, after ruled) []ruled {
	all := []ruled{after}
	var changed []string
	for name, networks := range after.groups {
		if !maps.Equal(networks, before.groups[name]) {
			changed = append(changed, name)
		}
	}
	for _, rules := range []map[string]chain{before.chains, after.chains} {
		for _, places := range []map[place]string{before.places, after.places} {
			for some := range 1 << len(changed) {
				r := ruled{chains: rules, groups: maps.Clone(before.groups), places: places}
				for i, name := range changed {
					if some>>i&1 == 1 {
						r.groups[name] = after.groups[name]
					}
				}
				all = append(all, r)
			}
		}
	}
	return all
}

// A change leads from splits to others, maybe over the rest of one that a dead
// process has begun.
type change struct {
	from, begun, to []traffic.Split
	done            int // transactions of the begun one
	room            int
}

// strays plans the change and looks at each moment of it where each packet goes.
// It returns those that go where neither the state before nor the one after it
// sends them.
func (c change) strays(t *testing.T, allowed func(packet, string) bool) []string {
	t.Helper()
	have := newRuled()
	bring := func(to []traffic.Split, most int, at func(before, after ruled)) {
		p, _ := makePlan(have.sight(), to, labSettings, About{}, nil)
		all, _ := p.transactions(c.room)
		for _, some := range all[:min(most, len(all))] {
			next := have.after(t, some)
			at(have, next)
			have = next
		}
	}
	nothing := func(ruled, ruled) {}
	bring(c.from, 1<<20, nothing)
	if c.begun != nil {
		bring(c.begun, c.done, nothing)
	}
	old, want := have, newRuled()
	for _, table := range build(c.to, labSettings, nil, nil).tables {
		for _, w := range table.chains {
			want.chains[w.name] = w
		}
		for _, g := range table.groups {
			want.groups[g.name] = union([2]map[network]bool{newGroupSets(g.networks)[0]})
		}
		for _, e := range table.elements {
			want.places[e.place] = e.chain
		}
	}
	var stray []string
	packets := c.packets()
	bring(c.to, 1<<20, func(before, after ruled) {
		for _, r := range between(before, after) {
			for _, p := range packets {
				if got := r.way(p); got != old.way(p) && got != want.way(p) && !allowed(p, got) {
					stray = append(stray, fmt.Sprintf("%s to port %d, drawn %d, goes to %s, which is neither %s nor %s", p.from, p.to.service.port.Number, p.drawn, got, old.way(p), want.way(p)))
				}
			}
		}
	})
	if p, _ := makePlan(have.sight(), c.to, labSettings, About{}, nil); !p.empty() {
		t.Errorf("a second time there is something to change: %+v", p.steps)
	}
	for _, p := range packets {
		if have.way(p) != want.way(p) {
			t.Errorf("in the end %s goes to %s, want %s", p.from, have.way(p), want.way(p))
		}
	}
	return stray
}

func (c change) packets() []packet {
	places := map[place]bool{}
	for _, s := range slices.Concat(c.from, c.begun, c.to) {
		for _, e := range elements(s) {
			places[e.place] = true
		}
	}
	var all []packet
	for to := range places {
		for i := range 4 {
			for _, drawn := range []uint32{0, 299_999, 300_000, 699_999, 700_000, 999_999} {
				all = append(all, packet{from: netip.AddrFrom4([4]byte{10, 0, 0, byte(64 * i)}), to: to, drawn: drawn})
			}
		}
	}
	return all
}

// any is a split with groups, weights and ports by chance. There are four
// networks, which stand alone or as one.
func anySplit(random *rand.Rand, name string, candidates int, ports ...uint16) traffic.Split {
	s := remoteSplit(traffic.Generation(1+random.IntN(2)), 0)
	s.Name, s.Service.Addresses, s.Service.Ports = name, s.Service.Addresses[:1], nil
	for _, port := range ports {
		s.Service.Ports = append(s.Service.Ports, traffic.Port{Number: port, Transport: traffic.TCP})
	}
	one := s.Candidates[0]
	s.Candidates = nil
	left := traffic.Whole
	for i := range candidates {
		c := one
		c.Name = fmt.Sprintf("new%d", i)
		c.Addresses = addresses(fmt.Sprintf("10.0.2.%d", 12+i))
		c.Weight = min(left, []traffic.Weight{0, 300_000, traffic.Whole}[random.IntN(3)])
		left -= c.Weight
		c.Closed = random.IntN(5) == 0
		s.Candidates = append(s.Candidates, c)
	}
	always := [4]int{}
	for i := range always {
		always[i] = random.IntN(candidates+1) - 1
	}
	for k := range s.Candidates {
		var goes, never [4]bool
		for i := range 4 {
			goes[i], never[i] = always[i] == k, always[i] != k && random.IntN(3) == 0
		}
		s.Candidates[k].Clients = traffic.Clients{Always: someNetworks(random, goes), Never: someNetworks(random, never)}
	}
	return s
}

func someNetworks(random *rand.Rand, in [4]bool) (all []netip.Prefix) {
	if in == [4]bool{true, true, true, true} && random.IntN(2) == 0 {
		return prefixes("10.0.0.0/24")
	}
	for i := 0; i < 4; i++ {
		switch {
		case i%2 == 0 && in[i] && in[i+1] && random.IntN(2) == 0:
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(64 * i)}), 25))
			i++
		case in[i]:
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(64 * i)}), 26))
		}
	}
	return all
}

// Groups, weights and services may change in one apply: at every moment of it,
// whichever side of a transaction a packet's rules and its sets are of, each
// client is where the splits before or those after it have him.
func TestNoClientGoesWhereNeitherTheOldNorTheNewSplitsSendHim(t *testing.T) {
	random := rand.New(rand.NewPCG(20, 26))
	for i := range 700 {
		c := change{room: []int{1, roomMin}[i%2]}
		ports := func() []uint16 { return [][]uint16{{25}, {25, 587}, {25, 465}}[random.IntN(3)] }
		c.from = []traffic.Split{anySplit(random, "mx", 1, ports()...)}
		c.to = []traffic.Split{anySplit(random, "mx", 1, ports()...)}
		if i%3 == 0 {
			c.begun, c.done = []traffic.Split{anySplit(random, "mx", 1, ports()...)}, random.IntN(8)
			if len(c.to[0].Candidates[0].Clients.Never) == 0 { // the rest of a change may have a client in both groups, and `never` would go first
				c.to = c.begun
			}
		}
		if stray := c.strays(t, none); len(stray) > 0 {
			t.Fatalf("change %d: %d stray, the first: %s\nfrom %+v\nbegun %+v (%d)\nto %+v", i, len(stray), stray[0], c.from, c.begun, c.done, c.to)
		}
	}
}

func none(packet, string) bool { return false }

// What is left among several candidates: a client that is let into a group of
// one and out of a group of another may be the primary's for a moment.
func TestAmongSeveralCandidatesNoClientStraysButToThePrimary(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 2026))
	for i := range 300 {
		c := change{
			room: []int{1, roomMin}[i%2],
			from: []traffic.Split{anySplit(random, "mx", 2, 25)}, to: []traffic.Split{anySplit(random, "mx", 2, 25)},
		}
		regrouped := func(p packet, way string) bool {
			in := func(networks []netip.Prefix) bool {
				return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(p.from) })
			}
			return way == backendChain("mx", traffic.RolePrimary, "old") && slices.ContainsFunc([]int{0, 1}, func(k int) bool {
				old, other := c.from[0].Candidates[k].Clients, c.to[0].Candidates[k].Clients
				return in(old.Always) != in(other.Always) || in(old.Never) != in(other.Never)
			})
		}
		if stray := c.strays(t, regrouped); len(stray) > 0 {
			t.Fatalf("change %d: %d stray, the first: %s\nfrom %+v\nto %+v", i, len(stray), stray[0], c.from, c.to)
		}
	}
}

// A service may move to a split that is new, or from one that stays as it is.
func TestAServiceMovesToASplitThatIsWhatItIsToBe(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 2026))
	for i := range 100 {
		some := func(name string, ports ...uint16) traffic.Split { return anySplit(random, name, 1, ports...) }
		stays := some("a", 25, 465)
		less := stays
		less.Service.Ports = less.Service.Ports[:1]
		for about, c := range map[string]change{
			"a split gets another name": {from: []traffic.Split{some("a", 25, 465)}, to: []traffic.Split{some("b", 25, 465)}},
			"to a new split":            {from: []traffic.Split{some("a", 25, 465)}, to: []traffic.Split{some("a", 25), some("b", 465)}},
			"from one that stays":       {from: []traffic.Split{stays, some("b", 587)}, to: []traffic.Split{less, some("b", 465, 587)}},
		} {
			c.room = []int{1, roomMin}[i%2]
			if stray := c.strays(t, none); len(stray) > 0 {
				t.Fatalf("%s, change %d: %d stray, the first: %s\nfrom %+v\nto %+v", about, i, len(stray), stray[0], c.from, c.to)
			}
		}
	}
}
