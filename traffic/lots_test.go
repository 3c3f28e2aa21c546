package traffic_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// What relays and rules ask for alike must not change from one version to the
// next: clients would change sides.
func TestAClientsNumberIsTheSameOnEveryMachineAndInEveryVersion(t *testing.T) {
	s := traffic.Split{Name: "mx", Affinity: traffic.AffinitySource, AffinityPrefix: traffic.AffinityPrefix{IPv4: 24, IPv6: 64}}
	for client, want := range map[string]traffic.Weight{
		"192.0.2.1": 934585, "192.0.2.200": 934585, "198.51.100.7": 420347,
		"2001:db8::1": 146391, "2001:db8::ffff:1": 146391, "2001:db8:0:1::1": 409489,
	} {
		if got := s.Lots().Number(netip.MustParseAddr(client)); got != want {
			t.Errorf("%s has drawn %d, want %d", client, got, want)
		}
	}
}

func TestTheAddressesOfABackendAreDrawnEquallyOften(t *testing.T) {
	s := traffic.Split{Name: "mx", Affinity: traffic.AffinitySource, AffinityPrefix: traffic.AffinityPrefix{IPv4: 32, IPv6: 64}}
	const clients, addresses = 30_000, 3
	seen := map[int]int{}
	for i := range clients {
		seen[s.Lots().Address(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), addresses)]++
	}
	for i := range addresses {
		// 10,000 and five times the square root of 30,000 * 1/3 * 2/3.
		if n := seen[i]; n < 9590 || n > 10410 {
			t.Errorf("address %d is drawn by %d of %d clients", i, n, clients)
		}
	}
}

// The oracle looks at each network by itself.
func TestNetworksContainWhatOneOfThemDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	ip := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(4)), byte(r.IntN(256))})
		}
		six := [16]byte{0x20, 0x01, 15: byte(r.IntN(256))}
		six[7] = byte(r.IntN(4))
		return netip.AddrFrom16(six)
	}
	for range 300 {
		var list []netip.Prefix
		for range r.IntN(30) {
			a := ip()
			list = append(list, netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked())
		}
		networks := traffic.NewNetworks(list)
		for range 200 {
			client, want := ip(), false
			for _, n := range list {
				want = want || n.Contains(client)
			}
			if got := networks.Contain(client); got != want {
				t.Fatalf("%v contain %s: %v, want %v", list, client, got, want)
			}
		}
	}
}

func BenchmarkNetworksOfManyThousand(b *testing.B) {
	var list []netip.Prefix
	for i := range 50_000 {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
	}
	networks, client := traffic.NewNetworks(list), netip.MustParseAddr("10.77.77.77")
	b.ReportAllocs()
	for b.Loop() {
		networks.Contain(client)
	}
}
