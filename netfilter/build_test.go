package netfilter

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"github.com/splitd/splitd/traffic"
)

// goldenSplits are the cases whose text is kept in testdata/splits. e2e/real
// loads these files with nft and lists them
// (TestGoldenRulesetsLoadAndListTheSame).
func goldenSplits() map[string][]traffic.Split {
	minimal := localSplit(15, 50_000)
	minimal.Service.Addresses = minimal.Service.Addresses[:1]
	minimal.Candidates[0].Addresses = addresses("10.0.2.12")

	remote := remoteSplit(2, 50_000)
	remote.Service.Addresses = remote.Service.Addresses[:1]

	masquerade := remoteSplit(2, 50_000)
	masquerade.Return = traffic.ReturnMasquerade

	several := localSplit(7, 50_000)
	several.Candidates = append(several.Candidates,
		traffic.Backend{Name: "newer", Weight: 1, Addresses: addresses("10.0.2.13", "2001:db8:2::13")},
		traffic.Backend{Name: "newest", Weight: 0, Addresses: addresses("10.0.2.14", "2001:db8:2::14")})

	ports := localSplit(1, 500_000)
	ports.Service.Ports = append(ports.Service.Ports,
		traffic.Port{Number: 587, Transport: traffic.TCP}, traffic.Port{Number: 53, Transport: traffic.UDP})
	ports.Candidates[0].Addresses = addresses("10.0.2.12:2525", "[2001:db8:2::12]:2525")

	itself := localSplit(1, 10_000)
	itself.Service.Addresses = append(itself.Service.Addresses, netip.MustParseAddr("192.0.2.26"))
	itself.Service.Ports = append(itself.Service.Ports, traffic.Port{Number: 587, Transport: traffic.TCP})
	itself.Primary = traffic.Backend{Name: "old", Addresses: addresses("192.0.2.25", "[2001:db8::25]:25")}

	second := localSplit(4, 0)
	second.Name = "imap"
	second.Service.Ports = []traffic.Port{{Number: 143, Transport: traffic.TCP}, {Number: 993, Transport: traffic.TCP}}

	affinity := localSplit(9, 50_000)
	affinity.Affinity, affinity.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 24, IPv6: 64}
	affinity.Candidates = append(affinity.Candidates,
		traffic.Backend{Name: "newer", Weight: 10_000, Addresses: addresses("10.0.2.13", "2001:db8:2::13")})

	slots := affinity
	slots.AffinityPrefix = traffic.AffinityPrefix{IPv4: 32, IPv6: 128}
	slots.Candidates = append(slices.Clone(slots.Candidates),
		traffic.Backend{Name: "newest", Weight: 20_000, Addresses: addresses("10.0.2.14", "2001:db8:2::14")})
	slots.Slots = traffic.Slots{{First: 0, Last: 9_999, Candidate: "newer"}, {First: 500_000, Last: 519_999, Candidate: "newest"}}

	grouped := localSplit(10, 0)
	grouped.Candidates[0].Clients = traffic.Clients{
		Always: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:a::/48"), netip.MustParsePrefix("192.0.2.128/25")},
		Never:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:b::1/128"), netip.MustParsePrefix("2001:db8:b:1::/64")},
	}

	dns := localSplit(11, 50_000)
	dns.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.UDP}, {Number: 53, Transport: traffic.TCP}, {Number: 40000, Last: 40100, Transport: traffic.UDP}}
	dns.UDPTimeout, dns.LocalClients = 10*time.Second, true

	farm := localSplit(12, 50_000)
	farm.Affinity, farm.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 56}
	farm.Candidates[0].Addresses = addresses("10.0.2.12", "10.0.2.13:26", "10.0.2.14", "2001:db8:2::12", "2001:db8:2::13")
	farm.Candidates[0].Down = []netip.Addr{netip.MustParseAddr("10.0.2.14")}
	farm.Candidates = append(farm.Candidates,
		traffic.Backend{Name: "shut", Weight: 5, Closed: true, Addresses: addresses("10.0.2.20", "2001:db8:2::20")},
		traffic.Backend{Name: "half", Weight: 5, Addresses: addresses("10.0.2.21", "2001:db8:2::21"), Down: []netip.Addr{netip.MustParseAddr("2001:db8:2::21")}})

	sampled := localSplit(18, 50_000)
	sampled.Sample, sampled.SamplePort = 300_000, 15000

	kept := dns // sampled before, and its relay still has flows
	kept.Name, kept.SamplePort = "dns", 15001
	kept.Return = traffic.ReturnMasquerade
	kept.Primary = traffic.Backend{Name: "old", Addresses: addresses("10.0.1.11", "[2001:db8:1::11]:5353")}
	steady := affinity
	steady.Sample, steady.SamplePort = traffic.Whole, 15002
	steady.Primary = traffic.Backend{Name: "old", Addresses: addresses("192.0.2.25", "2001:db8:1::11")}

	return map[string][]traffic.Split{
		"sampled": {sampled}, "sampled-groups": {sampledSplit(grouped, traffic.Whole)}, "sampled-farm": {kept, steady},
		"affinity": {affinity}, "slots": {slots}, "groups": {grouped}, "dns": {dns}, "farm": {farm},
		"minimal": {minimal}, "remote": {remote}, "masquerade": {masquerade}, "several": {several},
		"dual": {localSplit(15, 50_000)}, "ports": {ports}, "itself": {itself},
		"whole": {localSplit(16, traffic.Whole)}, "zero": {localSplit(17, 0)}, "two": {localSplit(1, 1), second}, "none": nil,
	}
}

func TestTheTextOfARulesetIsKept(t *testing.T) {
	for name, splits := range goldenSplits() {
		t.Run(name, func(t *testing.T) {
			golden(t, "splits/"+name+".nft", Build(splits, labSettings).Text())
		})
	}
}

func TestAMaskThatIsNoPrefixIsWrittenOut(t *testing.T) {
	s := remoteSplit(2, 50_000)
	s.Return = traffic.ReturnMasquerade
	golden(t, "splits/mask.nft", Build([]traffic.Split{s}, Settings{MarkMask: 0x00ff0000}).Text())
}

func TestTheOrderOfSplitsDoesNotMatter(t *testing.T) {
	splits := goldenSplits()["two"]
	turned := []traffic.Split{splits[1], splits[0]}
	if Build(splits, labSettings).Text() != Build(turned, labSettings).Text() {
		t.Error("the text depends on the order of the splits")
	}
}

func TestWhoWroteTheRulesIsReadBackWhole(t *testing.T) {
	for _, dir := range []string{"", "/var/lib/splitd", `/a "b" 100%`, "/" + strings.Repeat("long%", 200), "/é\n"} {
		want := About{StateDir: dir, Include: filepath.Join("/run", dir, IncludeFile)}
		c := aboutChain(want)
		var comments []string
		for _, r := range c.rules {
			if len(r.comment) > commentMax {
				t.Errorf("comment of %d bytes: %q", len(r.comment), r.comment)
			}
			comments = append(comments, r.comment)
		}
		if diff := cmp.Diff(want, aboutOf(comments)); diff != "" {
			t.Errorf("read back (-want +got):\n%s", diff)
		}
	}
}

// Whoever may write the comments must not choose what root empties or removes.
func TestAFileToIncludeOfAnotherNameIsNone(t *testing.T) {
	for _, path := range []string{"/etc/passwd", "run/include.nft", "include.nft", "/run/include.nft/", "/"} {
		if got := aboutOf([]string{"include=" + path}).Include; got != "" {
			t.Errorf("%q was read as %q", path, got)
		}
	}
}

func TestMarkClassesStayInsideTheMask(t *testing.T) {
	for _, tc := range []struct{ mask, class, want uint32 }{
		{0xfff00000, 1, 0x08000000},
		{0xfff00000, 31, 0xf8000000},
		{0x0000001f, 17, 0x00000011},
		{0x0000003f, 17, 0x00000022},
		{0xf0000001, 2, 0x10000000},
		{0xf0000001, 3, 0x10000001},
	} {
		if got := (Settings{MarkMask: tc.mask}).mark(markClass(tc.class)); got != tc.want {
			t.Errorf("class %d in mask %#x = %#x, want %#x", tc.class, tc.mask, got, tc.want)
		}
	}
}

// Tailscale and OpenWrt's pbr use 0x00ff0000, of which the default mask has the
// lower half.
func TestMarksOfOthersThatReachIntoTheDefaultMaskTouchNoClass(t *testing.T) {
	const theirs = 0x00ff0000
	if labSettings.MarkMask&theirs == 0 {
		t.Fatal("the masks do not overlap: the test shows nothing")
	}
	if both := labSettings.ClassMask() & theirs; both != 0 {
		t.Errorf("bits %#x of classes are theirs too", both)
	}
	if both := labSettings.ClassMask() & labSettings.generationMask(); both != 0 {
		t.Errorf("bits %#x hold both a class and a generation", both)
	}
	if all := labSettings.ClassMask() | labSettings.generationMask(); all != labSettings.MarkMask {
		t.Errorf("bits %#x are used, want all of %#x", all, labSettings.MarkMask)
	}
}

func FuzzReadingWhatAnotherProgramWrote(f *testing.F) {
	f.Add([]byte("\x00\x07gen=15\x00"))
	f.Add([]byte("\x00\xff"))
	f.Add([]byte{8, 0, 1, 0, 0xff, 0xff, 0xff, 0xfc, 9, 0, 2, 0, 'a', 0})
	for _, port := range []traffic.Port{{Number: 25, Transport: traffic.TCP}, {Number: 40000, Last: 40100, Transport: traffic.UDP}} {
		key, end := service{ip: netip.MustParseAddr("192.0.2.25"), port: port}.keys()
		f.Add(append(key, end...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = parseGeneration(commentOf(data))
		_, _ = parseVerdict(data)
		_, _, _ = versionOf(string(data))
		for _, half := range [][]byte{data, data[:len(data)/2]} {
			s, ok := parseService(half, data[len(half):])
			if !ok {
				continue
			}
			if again, ok := parseService(s.keys()); !ok || again != s {
				t.Errorf("service %v was read back as %v", s, again)
			}
		}
		_ = parseNetworks([]nftables.SetElement{{Key: data}, {Key: data, IntervalEnd: true}})
	})
}
