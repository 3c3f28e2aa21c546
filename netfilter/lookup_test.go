package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// flowOf is a TCP entry of a client of 192.0.2.100.
func flowOf(service, server string) *entry {
	asked, answers := netip.MustParseAddrPort(service), netip.MustParseAddrPort(server)
	client := netip.MustParseAddr("192.0.2.100")
	if asked.Addr().Is6() {
		client = netip.MustParseAddr("2001:db8::100")
	}
	return &entry{
		original: tuple{unix.IPPROTO_TCP, client, asked.Addr(), 40000, asked.Port()},
		reply:    tuple{unix.IPPROTO_TCP, answers.Addr(), client, answers.Port(), 40000},
		status:   statusSeenReply, tcpState: 3,
	}
}

func TestAFlowIsKnownByWhatWasAskedForAndWhoAnswers(t *testing.T) {
	mx := remoteSplit(1, 0)
	mx.Service.Ports = append(mx.Service.Ports, traffic.Port{Number: 1000, Last: 1999, Transport: traffic.TCP}, traffic.Port{Number: 3000, Last: 3999, Transport: traffic.TCP})
	mx.Candidates[0].Addresses = addresses("10.0.2.12", "10.0.2.13", "2001:db8:2::12")
	mx.Candidates = append(mx.Candidates, traffic.Backend{Name: "other", Addresses: addresses("10.0.2.12:2525")})
	dns := localSplit(1, 0)
	dns.Name, dns.Service.Ports = "dns", []traffic.Port{{Number: 53, Transport: traffic.TCP}, {Number: 2000, Last: 2999, Transport: traffic.TCP}}
	l := newLookup([]traffic.Split{mx, dns}, labSettings)
	leg := flowOf("192.0.2.25:25", "192.0.2.25:25")
	leg.mark = labSettings.mark(classLeg)
	check := flowOf("192.0.2.25:53", "192.0.2.25:53")
	check.mark = labSettings.mark(classCheck)
	udp := flowOf("192.0.2.25:53", "192.0.2.25:53")
	udp.original.protocol = unix.IPPROTO_UDP
	for name, tc := range map[string]struct {
		flow *entry
		want string
	}{
		"the primary":                             {flowOf("192.0.2.25:25", "10.0.1.11:25"), "mx/old"},
		"a candidate":                             {flowOf("192.0.2.25:25", "10.0.2.12:25"), "mx/new"},
		"its second address":                      {flowOf("192.0.2.25:25", "10.0.2.13:25"), "mx/new"},
		"IPv6":                                    {flowOf("[2001:db8::25]:25", "[2001:db8:2::12]:25"), "mx/new"},
		"another candidate at the same address":   {flowOf("192.0.2.25:25", "10.0.2.12:2525"), "mx/other"},
		"the first of a run of ports":             {flowOf("192.0.2.25:1000", "10.0.2.12:1000"), "mx/new"},
		"the last one":                            {flowOf("192.0.2.25:1999", "10.0.2.12:1999"), "mx/new"},
		"a run of another split between":          {flowOf("192.0.2.25:2000", "10.0.2.12:2000"), "dns/new"},
		"a run behind that":                       {flowOf("192.0.2.25:3999", "10.0.1.11:3999"), "mx/old"},
		"behind all runs":                         {flowOf("192.0.2.25:4000", "10.0.1.11:4000"), ""},
		"before all runs":                         {flowOf("192.0.2.25:999", "10.0.1.11:999"), ""},
		"a primary that stays here":               {flowOf("192.0.2.25:53", "192.0.2.25:53"), "dns/old"},
		"nothing was translated, and nobody here": {flowOf("192.0.2.25:25", "192.0.2.25:25"), ""},
		"an answer of nobody's":                   {flowOf("192.0.2.25:25", "10.0.9.9:25"), ""},
		"a client that asks a backend itself":     {flowOf("10.0.2.12:25", "10.0.2.12:25"), ""},
		"a relay's own leg":                       {leg, ""},
		"a health check of what stays here":       {check, ""},
		"another transport":                       {udp, ""},
	} {
		got := ""
		if at, ok := l.find(tc.flow); ok {
			key := l.key(at)
			got = key.Split + "/" + key.Backend
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestTheMarkTellsTheGenerationThatGaveAFlowItsBackend(t *testing.T) {
	s := remoteSplit(1000, 0)
	l := newLookup([]traffic.Split{s}, labSettings)
	at, _ := l.find(flowOf("192.0.2.25:25", "10.0.2.12:25"))
	for drawn, want := range map[traffic.Generation]traffic.Generation{1000: 1000, 999: 999, 990: 990, 1000 - 100: 900} {
		mark := labSettings.generationMark(drawn) | labSettings.mark(classRemote) | 0xfffff
		if got := l.generation(at, mark, 0); got != want {
			t.Errorf("a flow of generation %d is of %d", drawn, got)
		}
	}
	if got := l.generation(at, labSettings.mark(classRemote), 0); got != 0 {
		t.Errorf("a flow without a generation is of %d, want 0", got)
	}
	if got := l.generation(at, labSettings.generationMark(1003), generationsAhead); got != 1003 {
		t.Errorf("a flow that is younger than the last look is of %d, want 1003", got)
	}
}

func TestALookupIsMadeAnewWhenASplitHasChanged(t *testing.T) {
	splits := []traffic.Split{remoteSplit(1, 0)}
	l := newLookup(splits, labSettings)
	if !l.covers(splits) || l.covers(nil) || l.covers([]traffic.Split{remoteSplit(2, 0)}) || (*lookup)(nil).covers(splits) {
		t.Error("a lookup does not know what it was made for")
	}
}

func TestALookupIsRightAfterEveryKindOfChange(t *testing.T) {
	moved := remoteSplit(2, 0)
	moved.Service.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.26")}
	elsewhere := remoteSplit(2, 0)
	elsewhere.Candidates[0].Addresses = addresses("10.0.2.99")
	other := remoteSplit(1, 0)
	other.Name, other.Service.Addresses = "other", []netip.Addr{netip.MustParseAddr("192.0.2.99")}
	flows := []*entry{flowOf("192.0.2.25:25", "10.0.2.12:25"), flowOf("192.0.2.26:25", "10.0.2.12:25"), flowOf("192.0.2.25:25", "10.0.2.99:25"), flowOf("192.0.2.99:25", "10.0.2.12:25")}
	for name, splits := range map[string][]traffic.Split{
		"weight": {remoteSplit(2, 500_000)}, "service": {moved}, "backend": {elsewhere}, "another split": {remoteSplit(1, 0), other}, "name": {other}, "none": {},
	} {
		want, got := newLookup(splits, labSettings), newLookup([]traffic.Split{remoteSplit(1, 0)}, labSettings).renewed(splits)
		if !got.covers(splits) {
			t.Errorf("%s: the renewed lookup is not for these splits", name)
		}
		for i, f := range flows {
			atWant, okWant := want.find(f)
			atGot, okGot := got.find(f)
			if atWant != atGot || okWant != okGot {
				t.Errorf("%s: flow %d is at %v %v, want %v %v", name, i, atGot, okGot, atWant, okWant)
			}
		}
	}
}

// tenThousand are splits as busy routers have them.
func tenThousand() []traffic.Split {
	splits := make([]traffic.Split, 10_000)
	for i := range splits {
		s := remoteSplit(1, 50_000)
		s.Name = fmt.Sprintf("service-%d", i)
		s.Service.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
		splits[i] = s
	}
	return splits
}

func BenchmarkLookupOfTenThousandSplits(b *testing.B) {
	splits := tenThousand()
	b.Run("make", func(b *testing.B) {
		for b.Loop() {
			newLookup(splits, labSettings)
		}
	})
	l := newLookup(splits, labSettings)
	b.Run("after a change of weight", func(b *testing.B) {
		old := newLookup(splits, labSettings)
		changed := slices.Clone(splits)
		changed[5000].Generation = 2
		for b.Loop() {
			old.renewed(changed)
		}
	})
	b.Run("is it still good", func(b *testing.B) {
		for b.Loop() {
			l.covers(splits)
		}
	})
	e := flowOf("198.18.20.7:25", "10.0.2.12:25")
	b.Run("find", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := l.find(e); !ok {
				b.Fatal("not found")
			}
		}
	})
}

func TestFindingAFlowMakesNoGarbage(t *testing.T) {
	l := newLookup(tenThousand(), labSettings)
	e := flowOf("198.18.20.7:25", "10.0.2.12:25")
	if n := testing.AllocsPerRun(100, func() { l.find(e) }); n != 0 {
		t.Errorf("%v allocations for each flow, want none", n)
	}
	at, _ := l.find(e)
	if diff := cmp.Diff(traffic.BackendKey{Split: "service-5127", Backend: "new"}, l.key(at)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
