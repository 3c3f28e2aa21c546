package splitter

import (
	"net/netip"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// ofPrimary is a split of which each flow draws anew, all for the primary.
func ofPrimary(sample traffic.Weight) traffic.Split {
	s := drawnSplit()
	s.Affinity, s.Candidates, s.Sample = traffic.AffinityNone, nil, sample
	return s
}

// All draws there are, each once.
func TestASampleIsOfSoManyDrawsInAMillionAsItHasPPM(t *testing.T) {
	for _, sample := range []traffic.Weight{0, 1, 2, 499_999, 999_999, traffic.Whole} {
		s := ofPrimary(sample)
		c := choiceOf(t, s, s.Service.Addresses[0])
		client := netip.MustParseAddr("198.51.100.7")
		_, why := c.pick(client, func() traffic.Weight { return 0 })
		sampled := traffic.Weight(0)
		for number := range traffic.Whole {
			if c.samples(client, why, func() traffic.Weight { return number }) {
				sampled++
			}
		}
		if sampled != sample {
			t.Errorf("a sample of %s: %d of a million draws are sampled, want %d", sample, sampled, sample)
		}
	}
}

// A network that is in the lowest millionth is sampled from the first ppm on, one in the
// highest from the last on.
func TestWithAffinityTheLowestAndHighestMillionthAreSampledAlone(t *testing.T) {
	s := ofPrimary(0)
	s.Affinity, s.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 128}
	found := map[traffic.Weight]netip.Addr{}
	const most = 1 << 24
	for i := range uint32(most) {
		client := netip.AddrFrom4([4]byte{198, byte(i >> 16), byte(i >> 8), byte(i)})
		if n := s.SampleLots().Number(client); n < 2 || n >= traffic.Whole-2 {
			found[n] = client
		}
		if len(found) == 4 {
			break
		}
	}
	if len(found) < 4 {
		t.Fatalf("among %d clients there are %v alone", most, found)
	}
	for number, client := range found {
		for _, sample := range []traffic.Weight{0, 1, 2, traffic.Whole - 1, traffic.Whole} {
			s.Sample = sample
			c := choiceOf(t, s, s.Service.Addresses[0])
			_, why := c.pick(client, nil)
			if got := c.samples(client, why, nil); got != (number < sample) {
				t.Errorf("a sample of %s: %s, which has drawn %d, is sampled: %t", sample, client, number, got)
			}
		}
	}
}

// What is drawn decides, and nothing else: the sample's number below its share. The
// kernel's rules ask the same.
func FuzzSample(f *testing.F) {
	for _, sample := range []uint32{0, 1, 2, 999_999, 1_000_000} {
		for _, drawn := range []uint32{0, 1, 999_998, 999_999} {
			f.Add(sample, drawn, uint32(0xc6336407), false)
			f.Add(sample, drawn, uint32(0xc6336407), true)
		}
	}
	f.Fuzz(func(t *testing.T, sample, drawn, ip uint32, affine bool) {
		s := ofPrimary(traffic.Weight(sample % uint32(traffic.Whole+1)))
		number := traffic.Weight(drawn % uint32(traffic.Whole))
		client := netip.AddrFrom4([4]byte{byte(ip >> 24), byte(ip >> 16), byte(ip >> 8), byte(ip)})
		if affine {
			s.Affinity = traffic.AffinitySource
			number = s.SampleLots().Number(client)
		}
		c := choiceOf(t, s, s.Service.Addresses[0])
		draw := func() traffic.Weight { return number }
		p, why := c.pick(client, draw)
		if p != &c.primary {
			t.Fatalf("%s is %q's", client, p.name)
		}
		own := why.why == traffic.WhyBackend // those are never sampled
		if got := c.samples(client, why, draw); got != (number < s.Sample && !own) {
			t.Errorf("a sample of %s: %s, which has drawn %d, is sampled: %t", s.Sample, client, number, got)
		}
	})
}
