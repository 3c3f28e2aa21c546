package splitter

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// What one split can have at most, as configs has it; a file has room for no more
// runs of the draw than that.
const (
	mostAddresses  = 64
	mostPorts      = 256
	mostCandidates = 64
	mostNetworks   = 100_000
	mostRuns       = 100_000
)

// largeSplits are of each kind of size the largest: a change has to be in force on
// every worker within 10 ms, so SetWeights may take a part of that.
func largeSplits(tb testing.TB) map[string]traffic.Split {
	tb.Helper()
	ip := families()["IPv4"]
	plain := func() traffic.Split {
		return newSplit("mx", netip.AddrPortFrom(ip, freePort()), closedPort(ip), map[string]candidate{"new": {closedPort(ip), 0}})
	}
	networks := plain()
	for i := range mostNetworks {
		n := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 12), byte(i >> 4), byte(i << 4)}), 28)
		networks.Candidates[0].Clients.Always = append(networks.Candidates[0].Clients.Always, n)
		networks.Proxy.AcceptProxy = append(networks.Proxy.AcceptProxy, n)
	}
	runs := plain()
	runs.Affinity, runs.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 64}
	runs.Candidates = manyCandidates(mostCandidates, 1)
	width := traffic.Whole / mostRuns
	for i := range traffic.Weight(mostRuns) {
		c := &runs.Candidates[i%mostCandidates]
		c.Weight += width / 2
		runs.Slots = append(runs.Slots, traffic.Slot{First: i * width, Last: i*width + width/2 - 1, Candidate: c.Name})
	}
	fronts := plain()
	fronts.Service = traffic.Service{}
	for i := range byte(mostAddresses) {
		fronts.Service.Addresses = append(fronts.Service.Addresses, netip.AddrFrom4([4]byte{127, 0, 1, i}))
	}
	for range mostPorts {
		fronts.Service.Ports = append(fronts.Service.Ports, traffic.Port{Number: freePort(), Transport: traffic.TCP})
	}
	backends := plain()
	backends.Candidates = manyCandidates(mostCandidates, mostAddresses)
	return map[string]traffic.Split{"100,000 networks": networks, "100,000 runs": runs, "16,384 listeners": fronts, "64 candidates of 64 addresses": backends}
}

func manyCandidates(many, addresses int) []traffic.Backend {
	var all []traffic.Backend
	for i := range many {
		b := traffic.Backend{Name: fmt.Sprintf("c%d", i)}
		for j := range addresses {
			b.Addresses = append(b.Addresses, traffic.Address{IP: netip.AddrFrom4([4]byte{127, 1, byte(i), byte(j)}), Port: 9})
		}
		all = append(all, b)
	}
	return all
}

// BenchmarkSetWeights changes one weight back and forth.
func BenchmarkSetWeights(b *testing.B) {
	for name, split := range largeSplits(b) {
		b.Run(name, func(b *testing.B) {
			r := startRelay(b, Options{Workers: 1}, split)
			other, err := split.WithWeights(map[string]traffic.Weight{split.Candidates[0].Name: 7})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				split, other = other, split
				if err := r.SetWeights(split); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLeaveMany takes a relay from the largest number of listeners and lets it
// have them again.
func BenchmarkLeaveMany(b *testing.B) {
	split := largeSplits(b)["16,384 listeners"]
	r := startRelay(b, Options{Workers: 1}, split)
	for b.Loop() {
		for _, splits := range [][]traffic.Split{nil, {split}} {
			if err := r.Apply(b.Context(), splits); err != nil {
				b.Fatal(err)
			}
		}
	}
}
