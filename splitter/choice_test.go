package splitter

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// stranger is a client that no list knows.
var stranger = netip.MustParseAddr("203.0.113.99")

// choiceOf is that of a front of the split.
func choiceOf(t testing.TB, s traffic.Split, at netip.Addr) *choice {
	t.Helper()
	c, err := New(Options{}).choice(s, rulesOf(s), spot{netip.AddrPortFrom(at, s.Service.Ports[0].Number), s.Service.Ports[0].Transport})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// choiceAmong is that of a split with these candidates, wherever they are.
func choiceAmong(t *testing.T, candidates ...traffic.Backend) *choice {
	t.Helper()
	s := at("mx", "10.0.0.1:25", "192.0.2.1:25")
	for _, c := range candidates {
		c.Addresses = []traffic.Address{{IP: netip.MustParseAddr("10.0.0.12")}}
		s.Candidates = append(s.Candidates, c)
	}
	return choiceOf(t, s, s.Service.Addresses[0])
}

var shares = []string{"0%", "0.1%", "5%", "50%", "99.9%", "100%"}

func TestSharesOfSimulatedDrawsLieWithinTheBinomialInterval(t *testing.T) {
	const flows = 100_000
	for i, share := range shares {
		weight, err := traffic.ParseWeight(share)
		if err != nil {
			t.Fatal(err)
		}
		draw := seededDraw(uint64(100 + i))
		c := choiceAmong(t, traffic.Backend{Name: "new", Weight: weight})
		got := 0
		for range flows {
			if picked(c, stranger, draw).name == "new" {
				got++
			}
		}
		if low, high := binomialInterval(flows, weight); got < low || got > high {
			t.Errorf("%s: candidate drawn %d times of %d, want %d to %d", share, got, flows, low, high)
		}
	}
}

func TestPickGivesCandidatesTheirPartsInOrderAndThePrimaryTheRest(t *testing.T) {
	c := choiceAmong(t,
		traffic.Backend{Name: "none"}, traffic.Backend{Name: "first", Weight: 10}, traffic.Backend{Name: "second", Weight: 5})
	want := map[traffic.Weight]string{0: "first", 9: "first", 10: "second", 14: "second", 15: "old", traffic.Whole - 1: "old"}
	got := map[traffic.Weight]string{}
	for number := range want {
		got[number] = picked(c, stranger, func() traffic.Weight { return number }).name
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("backends drawn (-want +got):\n%s", diff)
	}
}

func TestBackendIsReachedOnTheFamilyAndPortOfTheService(t *testing.T) {
	ip := netip.MustParseAddr
	both := traffic.Backend{Name: "b", Addresses: []traffic.Address{
		{IP: ip("10.0.0.1")}, {IP: ip("2001:db8::1"), Port: 2525}, {IP: ip("10.0.0.2"), Port: 26},
	}}
	half, dead := both, both
	half.Down = []netip.Addr{ip("10.0.0.1")}
	dead.Down = []netip.Addr{ip("10.0.0.1"), ip("10.0.0.2")}
	for _, test := range []struct {
		backend traffic.Backend
		service string
		want    []string
	}{
		{both, "192.0.2.25:25", []string{"10.0.0.1:25", "10.0.0.2:26"}},
		{both, "[2001:db8::25]:25", []string{"[2001:db8::1]:2525"}},
		{half, "192.0.2.25:25", []string{"10.0.0.2:26"}},
		{dead, "192.0.2.25:25", []string{"10.0.0.1:25", "10.0.0.2:26"}}, // the primary's; of a candidate nobody asks
		{traffic.Backend{Local: true}, "192.0.2.25:25", []string{"127.0.0.1:25"}},
		{traffic.Backend{Local: true}, "[2001:db8::25]:25", []string{"[::1]:25"}},
	} {
		p, err := newParty("mx", test.backend, netip.MustParseAddrPort(test.service))
		var got []string
		for _, to := range p.targets {
			got = append(got, to.address)
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("from %s: %v (-want +got):\n%s", test.service, err, diff)
		}
	}
}

func TestPauseAfterAcceptErrorsGrowsFromFiveMillisecondsToOneSecond(t *testing.T) {
	var got []time.Duration
	pause := time.Duration(0)
	for range 10 {
		pause = nextPause(pause)
		got = append(got, pause/time.Millisecond)
	}
	want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pauses in ms (-want +got):\n%s", diff)
	}
}

func TestLimiterLetsOneMessageOfAKindPassPerSecondAndCountsTheRest(t *testing.T) {
	type answer struct {
		Left int
		OK   bool
	}
	var l limiter
	start := time.Unix(1_700_000_000, 0)
	var got []answer
	for _, after := range []time.Duration{0, 1, 999, 1000, 1500, 2000} {
		left, ok := l.allow("a", start.Add(after*time.Millisecond))
		got = append(got, answer{left, ok})
	}
	left, ok := l.allow("b", start)
	got = append(got, answer{left, ok})
	want := []answer{{0, true}, {0, false}, {0, false}, {2, true}, {0, false}, {1, true}, {0, true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

// binomialInterval returns the exact central 99.9 % interval of the number of
// candidate flows among n.
func binomialInterval(n int, weight traffic.Weight) (low, high int) {
	p := float64(weight) / float64(traffic.Whole)
	if p == 0 || p == 1 {
		return int(p) * n, int(p) * n
	}
	const tail = 0.0005
	sum := 0.0
	low = -1
	for k := range n + 1 {
		sum += math.Exp(logChoose(n, k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
		if low < 0 && sum > tail {
			low = k
		}
		if sum >= 1-tail {
			return low, k
		}
	}
	return low, n
}

func logChoose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

func TestBinomialIntervalIsTheExactOne(t *testing.T) {
	// From the cumulative sums of C(10,k)/1024: P(X<1) = 0.00098 > 0.0005.
	if low, high := binomialInterval(10, traffic.Whole/2); low != 0 || high != 10 {
		t.Errorf("n=10 p=0.5: %d to %d, want 0 to 10", low, high)
	}
	// Normal approximation: 5000 -+ 3.29*68.9.
	if low, high := binomialInterval(100_000, traffic.Whole/20); low < 4770 || low > 4780 || high < 5223 || high > 5233 {
		t.Errorf("n=100000 p=0.05: %d to %d, want about 4774 to 5227", low, high)
	}
}

// picked is who is picked, whatever the reason.
func picked(c *choice, client netip.Addr, draw func() traffic.Weight) *party {
	p, _ := c.pick(client, draw)
	return p
}
