package traffic_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

func whereSplit() traffic.Split {
	ip := netip.MustParseAddr
	return traffic.Split{
		Name: "mx", Affinity: traffic.AffinityNone,
		Service: traffic.Service{Addresses: []netip.Addr{ip("192.0.2.25")}, Ports: []traffic.Port{{Number: 25, Transport: traffic.TCP}}},
		Primary: traffic.Backend{Name: "old", Local: true},
		Candidates: []traffic.Backend{
			{Name: "new", Weight: 50_000, Addresses: []traffic.Address{{IP: ip("10.0.0.12")}}, Clients: traffic.Clients{
				Always: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, Never: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")},
			}},
			{Name: "other", Weight: 10_000, Addresses: []traffic.Address{{IP: ip("10.0.0.13")}}},
		},
	}
}

func TestWhereAsksWhatTheRulesAskInTheirOrder(t *testing.T) {
	closed, down := whereSplit(), whereSplit()
	closed.Candidates[0].Closed, closed.Candidates[0].Weight = true, 0
	down.Candidates[0].Down = []netip.Addr{netip.MustParseAddr("10.0.0.12")}
	behind := whereSplit()
	behind.Mode, behind.Proxy.AcceptProxy = traffic.ModeProxy, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	behind.Candidates[0].Clients.Always = []netip.Prefix{netip.MustParsePrefix("2001:db8:c::/48")}
	shown := behind
	shown.Proxy.Transparent = true
	kernel := behind
	kernel.Mode = traffic.ModeKernel
	for name, tc := range map[string]struct {
		split  traffic.Split
		client string
		want   traffic.Side
	}{
		"each flow draws anew": {whereSplit(), "192.0.2.9", traffic.Side{
			Why: traffic.WhyDraw, Odds: []traffic.Odds{{"old", 940_000}, {"new", 50_000}, {"other", 10_000}},
		}},
		"a family that is not served": {whereSplit(), "2001:db8::1", traffic.Side{Why: traffic.WhyFamily}},
		"a backend":                   {whereSplit(), "10.0.0.13", traffic.Side{Why: traffic.WhyBackend, Backend: "old"}},
		"always":                      {whereSplit(), "198.51.100.9", traffic.Side{Why: traffic.WhyAlways, Backend: "new", Address: netip.MustParseAddr("10.0.0.12")}},
		"never": {whereSplit(), "203.0.113.7", traffic.Side{
			Why: traffic.WhyDraw, Meant: "new", But: traffic.ButNever, Odds: []traffic.Odds{{"old", 990_000}, {"other", 10_000}},
		}},
		"always, but closed": {closed, "198.51.100.9", traffic.Side{
			Why: traffic.WhyDraw, Meant: "new", But: traffic.ButClosed, Odds: []traffic.Odds{{"old", 990_000}, {"other", 10_000}},
		}},
		"not always, and closed": {closed, "192.0.2.9", traffic.Side{Why: traffic.WhyDraw, Odds: []traffic.Odds{{"old", 990_000}, {"other", 10_000}}}},
		"behind proxies, of another family": {behind, "2001:db8::1", traffic.Side{
			Why: traffic.WhyDraw, Odds: []traffic.Odds{{"old", 940_000}, {"new", 50_000}, {"other", 10_000}},
		}},
		"behind proxies, of another family, in a group": {behind, "2001:db8:c::1", traffic.Side{
			Why: traffic.WhyAlways, Backend: "new", Address: netip.MustParseAddr("10.0.0.12"),
		}},
		"behind proxies, of another family, which backends cannot be shown": {shown, "2001:db8::1", traffic.Side{Why: traffic.WhyFamily}},
		"in mode kernel proxies bring nobody":                               {kernel, "2001:db8::1", traffic.Side{Why: traffic.WhyFamily}},
		"always, but down":                                                  {down, "198.51.100.9", traffic.Side{Why: traffic.WhyAlways, Backend: "old", Meant: "new", But: traffic.ButDown}},
	} {
		client := netip.MustParseAddr(tc.client)
		tc.want.Client = netip.PrefixFrom(client, client.BitLen())
		got := tc.split.Where(client)
		if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestAClientNetworkKeepsItsSideAndRaisingOnlyAdds(t *testing.T) {
	s := whereSplit()
	s.Affinity, s.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 24, IPv6: 64}
	before := map[netip.Addr]string{}
	for i := range 2000 {
		client := netip.AddrFrom4([4]byte{198, 18, byte(i), byte(i >> 8)})
		before[client] = s.Where(client).Backend
		if neighbour := netip.AddrFrom4([4]byte{198, 18, byte(i), 200}); s.Where(neighbour).Backend != before[client] {
			t.Fatalf("%s and its neighbour %s are on two sides", client, neighbour)
		}
	}
	s.Candidates[0].Weight = 200_000
	moved := 0
	for client, was := range before {
		if is := s.Where(client).Backend; is != was {
			moved++
			if was != "old" || is != "new" {
				t.Errorf("%s moved from %s to %s when new was raised", client, was, is)
			}
		}
	}
	if moved == 0 {
		t.Error("nobody moved")
	}
}

func TestLifetimesAreToldByBounds(t *testing.T) {
	var l traffic.Lifetimes
	if _, known := l.Quantile(0.5); known {
		t.Error("no lifetime has a median")
	}
	for range 95 {
		l.Add(3 * time.Second)
	}
	for range 5 {
		l.Add(24 * time.Hour)
	}
	if got, known := l.Quantile(0.95); !known || got != 5*time.Second {
		t.Errorf("95 %% end within %v, %v; want 5s", got, known)
	}
	if _, known := l.Quantile(0.99); known {
		t.Error("what is longer than all bounds has one")
	}
}

func TestWhereSaysWhatOfAClientsFlowsIsShadowed(t *testing.T) {
	affine := func(sample traffic.Weight) traffic.Split {
		s := whereSplit()
		s.Affinity, s.AffinityPrefix, s.Sample = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 64}, sample
		return s
	}
	drawn := whereSplit()
	drawn.Sample = 250_000
	full := whereSplit()
	full.Sample, full.Candidates[0].Weight = 250_000, 990_000
	ip := netip.MustParseAddr
	var primarys, candidates netip.Addr // clients whose network has drawn so
	for client := ip("192.0.2.30"); !primarys.IsValid() || !candidates.IsValid(); client = client.Next() {
		if affine(0).Where(client).Backend == "old" {
			primarys = client
		} else {
			candidates = client
		}
	}
	number := affine(0).SampleLots().Number(primarys)
	for name, tc := range map[string]struct {
		split        traffic.Split
		client       netip.Addr
		want, number traffic.Weight
	}{
		"a share of the draws":               {drawn, ip("192.0.2.9"), 250_000, 0},
		"nothing is left to the primary":     {full, ip("192.0.2.9"), 0, 0},
		"a backend":                          {drawn, ip("10.0.0.13"), 0, 0},
		"always the candidate's":             {drawn, ip("198.51.100.9"), 0, 0},
		"a family that is not served":        {drawn, ip("2001:db8::1"), 0, 0},
		"its network has drawn the sample":   {affine(number + 1), primarys, traffic.Whole, number},
		"its network has not":                {affine(number), primarys, 0, number},
		"its network has drawn a candidate":  {affine(traffic.Whole), candidates, 0, 0},
		"nothing is sampled, by its network": {affine(0), primarys, 0, 0},
	} {
		if side := tc.split.Where(tc.client); side.Sample != tc.want || side.SampleNumber != tc.number {
			t.Errorf("%s: %s by %d, want %s by %d", name, side.Sample, side.SampleNumber, tc.want, tc.number)
		}
	}
}
