package traffic_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

func networks(texts string) []netip.Prefix {
	var all []netip.Prefix
	for text := range strings.FieldsSeq(texts) {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestGroupsAreComparedByWhoIsInThem(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after   string // always | never
		exceeds         bool
		always, notLess string // what stays of after where only what was before may be
	}{
		"nothing changes":                  {"10.0.0.0/8|10.1.0.0/16", "10.0.0.0/8|10.1.0.0/16", false, "10.0.0.0/8", "10.1.0.0/16"},
		"an always network is new":         {"|", "10.0.0.0/8|", true, "", ""},
		"one of another family is new":     {"10.0.0.0/8|", "10.0.0.0/8 2001:db8::/32|", true, "10.0.0.0/8", ""},
		"one grows":                        {"10.1.0.0/16 10.3.0.0/16|", "10.0.0.0/8|", true, "10.1.0.0/16 10.3.0.0/16", ""},
		"one shrinks":                      {"10.0.0.0/8|", "10.1.0.0/16|", false, "10.1.0.0/16", ""},
		"one is split":                     {"10.0.0.0/8|", "10.0.0.0/9 10.128.0.0/9|", false, "10.0.0.0/9 10.128.0.0/9", ""},
		"two are merged":                   {"10.0.0.0/9 10.128.0.0/9|", "10.0.0.0/8|", false, "10.0.0.0/8", ""},
		"merged with what was not there":   {"10.0.0.0/9 10.128.0.0/10|", "10.0.0.0/8|", true, "10.0.0.0/9 10.128.0.0/10", ""},
		"everything":                       {"0.0.0.0/1 128.0.0.0/1|", "0.0.0.0/0|", false, "0.0.0.0/0", ""},
		"a never network goes":             {"|10.0.0.0/8", "|", true, "", "10.0.0.0/8"},
		"a never network is new":           {"|", "|10.0.0.0/8", false, "", "10.0.0.0/8"},
		"a never network is split in part": {"|10.0.0.0/8", "|10.0.0.0/9", true, "", "10.0.0.0/8"},
	} {
		t.Run(name, func(t *testing.T) {
			clients := func(text string) traffic.Clients {
				always, never, _ := strings.Cut(text, "|")
				return traffic.Clients{Always: networks(always), Never: networks(never)}
			}
			before, after := clients(tc.before), clients(tc.after)
			if got := after.Exceeds(before); got != tc.exceeds {
				t.Errorf("Exceeds = %v, want %v", got, tc.exceeds)
			}
			got := after.Within(before)
			if diff := cmp.Diff(traffic.Clients{Always: networks(tc.always), Never: networks(tc.notLess)}, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("Within (-want +got):\n%s", diff)
			}
			if got.Exceeds(before) {
				t.Error("what is within exceeds")
			}
		})
	}
}

func TestGroupsWithinOthersAreJustThoseClientsOfBoth(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func() []netip.Prefix {
		var all []netip.Prefix
		for i := 0; i < 64; {
			bits := 26 + random.IntN(7)
			size := 1 << (32 - bits)
			if i%size == 0 {
				if random.IntN(2) == 0 {
					all = append(all, netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/%d", i, bits)))
				}
				i += size
			}
		}
		return all
	}
	in := func(list []netip.Prefix, ip netip.Addr) bool {
		for _, n := range list {
			if n.Contains(ip) {
				return true
			}
		}
		return false
	}
	for range 300 {
		before, after := traffic.Clients{Always: some(), Never: some()}, traffic.Clients{Always: some(), Never: some()}
		got := after.Within(before)
		exceeds := false
		for i := range 64 {
			ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			always, never := in(before.Always, ip) && in(after.Always, ip), in(before.Never, ip) || in(after.Never, ip)
			if in(got.Always, ip) != always || in(got.Never, ip) != never {
				t.Fatalf("%s: always %v, never %v, want %v, %v: %+v within %+v", ip, in(got.Always, ip), in(got.Never, ip), always, never, after, before)
			}
			exceeds = exceeds || in(after.Always, ip) && !in(before.Always, ip) || in(before.Never, ip) && !in(after.Never, ip)
		}
		if after.Exceeds(before) != exceeds {
			t.Fatalf("Exceeds = %v, want %v: %+v and before %+v", !exceeds, exceeds, after, before)
		}
	}
}
