package splitter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// drawnSplit is a split in which all that can decide about a client does:
// groups, several addresses, two families.
func drawnSplit() traffic.Split {
	address := func(texts ...string) []traffic.Address {
		var all []traffic.Address
		for _, text := range texts {
			all = append(all, traffic.Address{IP: netip.MustParseAddr(text)})
		}
		return all
	}
	network := func(texts ...string) []netip.Prefix {
		var all []netip.Prefix
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	return traffic.Split{
		Name: "mx", Affinity: traffic.AffinitySource, AffinityPrefix: traffic.AffinityPrefix{IPv4: 24, IPv6: 56},
		Service: traffic.Service{
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.25"), netip.MustParseAddr("2001:db8::25")},
			Ports:     []traffic.Port{{Number: 25, Transport: traffic.TCP}},
		},
		Primary: traffic.Backend{Name: "old", Addresses: address("10.0.1.11", "10.0.1.12", "2001:db8:1::11")},
		Candidates: []traffic.Backend{
			{
				Name: "new", Weight: 300_000, Addresses: address("10.0.2.12", "10.0.2.13", "10.0.2.14", "2001:db8:2::12"),
				Clients: traffic.Clients{
					Always: network("198.18.7.0/24", "198.18.9.5/32", "2001:db8:aaaa:10::/60"),
					Never:  network("198.18.8.0/23", "2001:db8:aaaa:20::/60"),
				},
			},
			{Name: "newer", Weight: 250_000, Addresses: address("10.0.2.20", "2001:db8:2::20", "2001:db8:2::21")},
		},
	}
}

// states are what may become of it.
func states() map[string]traffic.Split {
	change := func(f func(*traffic.Split)) traffic.Split {
		s := drawnSplit()
		f(&s)
		return s
	}
	third := traffic.Backend{Name: "third", Weight: 200_000, Addresses: []traffic.Address{
		{IP: netip.MustParseAddr("10.0.2.30")}, {IP: netip.MustParseAddr("2001:db8:2::30")},
	}}
	return map[string]traffic.Split{
		"networks": drawnSplit(),
		"hosts":    change(func(s *traffic.Split) { s.AffinityPrefix = traffic.AffinityPrefix{IPv4: 32, IPv6: 128} }),
		"a seed":   change(func(s *traffic.Split) { s.AffinitySeed = "winter" }),
		"closed":   change(func(s *traffic.Split) { s.Candidates[0].Closed = true }),
		"one family down": change(func(s *traffic.Split) {
			s.Candidates[0].Down = []netip.Addr{netip.MustParseAddr("10.0.2.13"), netip.MustParseAddr("2001:db8:2::12")}
		}),
		"primary down": change(func(s *traffic.Split) {
			s.Primary.Down = []netip.Addr{netip.MustParseAddr("10.0.1.11")}
		}),
		"local primary": change(func(s *traffic.Split) { s.Primary = traffic.Backend{Name: "old", Local: true} }),
		"three candidates": change(func(s *traffic.Split) {
			s.Candidates = append(s.Candidates, third)
			s.Slots = s.Layout()
			s.Candidates[0].Weight, s.Candidates[1].Weight = 100_000, 400_000 // the layout is made of what it was
			*s = s.Relaid(s.Slots)
		}),
		"all to one": change(func(s *traffic.Split) { s.Candidates[0].Weight, s.Candidates[1].Weight = 0, traffic.Whole }),
		"nothing":    change(func(s *traffic.Split) { s.Candidates[0].Weight, s.Candidates[1].Weight = 0, 0 }),
	}
}

// clientsOf are clients of a family, several in each of many networks, among
// them some of groups and the backends themselves.
func clientsOf(s traffic.Split, six bool, n int) []netip.Addr {
	var all []netip.Addr
	for i := range n {
		client := netip.AddrFrom4([4]byte{198, 18 + byte(i&1), byte(i / 8), byte(1 + i*7)})
		if six {
			client = netip.MustParseAddr(fmt.Sprintf("2001:db8:aaaa:%x::%x", i/3*17&0xffff, i+1))
		}
		all = append(all, client)
	}
	for _, ip := range s.NeverSplit() {
		if ip.Is6() == six {
			all = append(all, ip)
		}
	}
	return all
}

// The kernel's rules do what Where says (netfilter's test of the same), so a
// split that moves between the planes keeps each client's side.
func TestTheRelaySendsEachClientWhereTheKernelWould(t *testing.T) {
	forbidden := func() traffic.Weight { t.Error("with affinity something is drawn"); return 0 }
	for name, s := range states() {
		t.Run(name, func(t *testing.T) {
			sides := map[string]int{}
			for _, ip := range s.Service.Addresses {
				c := choiceOf(t, s, ip)
				for _, client := range clientsOf(s, ip.Is6(), 2500) {
					want := s.Where(client)
					p, why := c.pick(client, forbidden)
					if name == "nothing" && want.Why == traffic.WhyAffinity {
						want.Why = traffic.WhyOnly
					}
					if meant, _ := s.Candidate(want.Meant); why.but == "" && meant.Closed && traffic.NewNetworks(meant.Clients.Always).Contain(client) {
						want.But, want.Meant = "", "" // the relay does not ask the groups of who is closed
					}
					if why.why != want.Why || why.but != want.But || why.meant != want.Meant {
						t.Fatalf("%s goes to %s because %+v, want %s, but %q, meant %q", client, p.name, why, want.Why, want.But, want.Meant)
					}
					at := p.targets[c.address(p, client, forbidden)].at
					local := s.Primary.Local && p == &c.primary
					if p.name != want.Backend || !local && at.Addr() != want.Address {
						t.Fatalf("%s goes to %s at %s, want %s at %s (%s)", client, p.name, at, want.Backend, want.Address, want.Why)
					}
					sides[p.name]++
				}
			}
			t.Logf("%v", sides)
			if name != "nothing" && (sides["old"] == 0 || sides["new"]+sides["newer"] < 500) {
				t.Errorf("the clients are on the sides %v: too few to tell", sides)
			}
		})
	}
}

// A proxy that speaks IPv4 to the service may have clients of IPv6, and the other
// way round: where tells of them too.
func TestClientsOfAnotherFamilyBehindProxiesGoWhereWhereSays(t *testing.T) {
	forbidden := func() traffic.Weight { t.Error("with affinity something is drawn"); return 0 }
	for _, ip := range drawnSplit().Service.Addresses {
		s := drawnSplit()
		s.Mode, s.Proxy.AcceptProxy = traffic.ModeProxy, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		s.Service.Addresses = []netip.Addr{ip}
		s.Candidates[0].Down = []netip.Addr{netip.MustParseAddr("10.0.2.13"), netip.MustParseAddr("2001:db8:2::12")}
		c := choiceOf(t, s, ip)
		for _, client := range clientsOf(s, !ip.Is6(), 500) {
			want := s.Where(client)
			p, why := c.pick(client, forbidden)
			at := p.targets[c.address(p, client, forbidden)].at.Addr()
			if p.name != want.Backend || at != want.Address || why.why != want.Why || why.but != want.But {
				t.Fatalf("%s of a service at %s goes to %s at %s (%v), want %+v", client, ip, p.name, at, why, want)
			}
		}
	}
}

// Without affinity each flow draws; what is asked before and behind the draw is
// the same.
func TestWithoutAffinityTheRelayDrawsWhatWhereExpects(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	draw := func() traffic.Weight { return traffic.Weight(r.IntN(int(traffic.Whole))) }
	for name, s := range states() {
		s.Affinity, s.Slots = traffic.AffinityNone, nil
		t.Run(name, func(t *testing.T) {
			for _, ip := range s.Service.Addresses {
				c := choiceOf(t, s, ip)
				for _, client := range clientsOf(s, ip.Is6(), 300)[150:] {
					side, seen := s.Where(client), map[string]int{}
					const flows = 200
					for range flows {
						seen[picked(c, client, draw).name]++
					}
					if side.Backend != "" {
						if diff := cmp.Diff(map[string]int{side.Backend: flows}, seen); diff != "" {
							t.Fatalf("%s (-want +got):\n%s", client, diff)
						}
						continue
					}
					for backend := range seen {
						if !slices.ContainsFunc(side.Odds, func(o traffic.Odds) bool { return o.Backend == backend }) {
							t.Fatalf("%s goes to %s, want one of %v", client, backend, side.Odds)
						}
					}
				}
			}
		})
	}
}

func TestAFlowsAddressIsDrawnEquallyOftenWithoutAffinity(t *testing.T) {
	s := drawnSplit()
	s.Affinity = traffic.AffinityNone
	c, draw, seen := choiceOf(t, s, s.Service.Addresses[0]), seededDraw(6), map[int]int{}
	const flows = 30_000
	for range flows {
		seen[c.address(&c.candidates[0], stranger, draw)]++
	}
	low, high := binomialInterval(flows, traffic.Whole/3)
	for i := range 3 {
		if seen[i] < low || seen[i] > high {
			t.Errorf("address %d has %d of %d flows, want %d to %d", i, seen[i], flows, low, high)
		}
	}
}

func TestAChoiceAllocatesNothing(t *testing.T) {
	s := drawnSplit()
	c := choiceOf(t, s, s.Service.Addresses[0])
	draw := func() traffic.Weight { return 0 }
	clients := clientsOf(s, false, 100)
	if n := testing.AllocsPerRun(10, func() {
		for _, client := range clients {
			c.address(picked(c, client, draw), client, draw)
		}
	}); n != 0 {
		t.Errorf("%d choices make %v allocations, want none", len(clients), n)
	}
}

// A connection costs some 40 microseconds.
func BenchmarkChoiceAmongTenThousandNetworks(b *testing.B) {
	s := drawnSplit()
	s.Candidates[0].Clients = traffic.Clients{}
	for i := range 10_000 {
		n := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		s.Candidates[0].Clients.Always = append(s.Candidates[0].Clients.Always, n)
	}
	c := choiceOf(b, s, s.Service.Addresses[0])
	clients := clientsOf(s, false, 1000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		client := clients[i%len(clients)]
		c.address(picked(c, client, nil), client, nil)
	}
}
