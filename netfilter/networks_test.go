package netfilter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// networkSet is what the kernel has of a set: it refuses what overlaps.
type networkSet map[network]bool

func newNetworkSet(prefixes []netip.Prefix) networkSet {
	s := networkSet{}
	for _, n := range networksOf(prefixes) {
		s[n] = true
	}
	return s
}

func (s networkSet) apply(t *testing.T, m move) {
	t.Helper()
	for _, n := range m.remove {
		if !s[n] {
			t.Fatalf("%s is removed and is not there", n.text())
		}
		delete(s, n)
	}
	for _, n := range m.add {
		for other := range s {
			if !n.before(other) && !other.before(n) {
				t.Fatalf("%s is added and overlaps %s", n.text(), other.text())
			}
		}
		s[n] = true
	}
}

func (s networkSet) has(ip netip.Addr) bool {
	at := network{first: string(ip.AsSlice()), end: string(ip.Next().AsSlice())}
	for n := range s {
		if !n.before(at) && !at.before(n) {
			return true
		}
	}
	return false
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// parts are n networks of so many bits, every second one of those in the whole.
func parts(whole string, size, n int) []netip.Prefix {
	ip := netip.MustParsePrefix(whole).Addr().AsSlice()
	var all []netip.Prefix
	for i := range n {
		at := slices.Clone(ip)
		for k, bit := 2*i, size-1; k > 0; k, bit = k/2, bit-1 {
			at[bit/8] |= byte(k%2) << (7 - bit%8)
		}
		addr, _ := netip.AddrFromSlice(at)
		all = append(all, netip.PrefixFrom(addr, size))
	}
	return all
}

func TestNoClientLeavesAGroupThatItIsToStayIn(t *testing.T) {
	const most = 8
	random := rand.New(rand.NewPCG(3, 9))
	some := func() []netip.Prefix {
		var all []netip.Prefix
		for ip := netip.MustParseAddr("10.0.0.0"); ip.Compare(netip.MustParseAddr("10.0.2.0")) < 0; {
			raw := ip.As4()
			bits := 32 - random.IntN(8)
			for netip.PrefixFrom(ip, bits).Masked().Addr() != ip {
				bits++
			}
			if random.IntN(3) > 0 {
				all = append(all, netip.PrefixFrom(ip, bits))
			}
			step := 1 << (32 - bits)
			next := int(raw[2])<<8 + int(raw[3]) + step
			ip = netip.AddrFrom4([4]byte{10, 0, byte(next >> 8), byte(next)})
		}
		return all
	}
	cases := map[string][2][]netip.Prefix{
		"one is split":                {prefixes("10.0.0.0/8"), prefixes("10.0.0.0/9", "10.128.0.0/9")},
		"two are merged":              {prefixes("10.0.0.0/9", "10.128.0.0/9"), prefixes("10.0.0.0/8")},
		"everything is split in two":  {prefixes("0.0.0.0/0"), prefixes("0.0.0.0/1", "128.0.0.0/1")},
		"one is split in too many":    {prefixes("10.0.0.0/16"), parts("10.0.0.0/16", 24, 100)},
		"too many are merged":         {parts("2001:db8::/32", 64, 100), prefixes("2001:db8::/32")},
		"others come and go":          {parts("10.0.0.0/16", 24, 30), parts("10.1.0.0/16", 24, 30)},
		"all, in very many":           {prefixes("0.0.0.0/0"), parts("128.0.0.0/1", 9, 128)},
		"very many, and at the end":   {parts("255.0.0.0/8", 32, 700), prefixes("255.0.0.0/8")},
		"nothing changes":             {prefixes("10.0.0.0/8"), prefixes("10.0.0.0/8")},
		"neighbours are no overlap":   {prefixes("10.0.0.0/9"), prefixes("10.128.0.0/9")},
		"one of the two that overlap": {prefixes("10.0.0.0/8", "11.0.0.0/8"), prefixes("10.0.0.0/9", "11.0.0.0/8")},
	}
	for i := range 60 {
		cases[fmt.Sprintf("at random, %d", i)] = [2][]netip.Prefix{some(), some()}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			have, want := newNetworkSet(tc[0]), newNetworkSet(tc[1])
			before := newNetworkSet(tc[0])
			add, remove := networkChanges(have, tc[1])
			for _, m := range networkMoves(remove, add, most) {
				if m.size() > most || m.size() == 0 {
					t.Fatalf("a move of %d networks, want 1 to %d", m.size(), most)
				}
				have.apply(t, m)
				for _, p := range slices.Concat(tc[0], tc[1]) {
					ip := p.Addr()
					if in := have.has(ip); in && !before.has(ip) && !want.has(ip) || !in && before.has(ip) && want.has(ip) {
						t.Fatalf("%s: before %v, wanted %v, and meanwhile %v", ip, before.has(ip), want.has(ip), in)
					}
				}
			}
			if diff := cmp.Diff(want, have, cmp.AllowUnexported(network{})); diff != "" {
				t.Errorf("networks (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAHundredThousandNetworksOfOneArePlannedAtOnce(t *testing.T) {
	one, many := prefixes("10.0.0.0/8"), parts("10.0.0.0/8", 26, 100_000)
	for _, tc := range [][2][]netip.Prefix{{one, many}, {many, one}} {
		add, remove := networkChanges(newNetworkSet(tc[0]), tc[1])
		if n := len(networkMoves(remove, add, networksMost)); n < 200 || n > 250 {
			t.Errorf("%d moves, want some 200", n)
		}
	}
}

// TestAClientThatNeverGoesStaysWhileItsNetworkIsSplitAndMerged changes the
// networks of the clients under connections, among thousands of others.
func TestAClientThatNeverGoesStaysWhileItsNetworkIsSplitAndMerged(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	inOne := append(prefixes("192.0.0.0/8", "2001:db8::/32"), parts("198.18.0.0/15", 32, 1000)...)
	inMany := append(parts("192.0.0.0/8", 24, 4000), parts("2001:db8::/32", 64, 1500)...)
	inTwo := append(prefixes("192.0.0.0/9", "192.128.0.0/9", "2001:db8::/33", "2001:db8:8000::/33"), parts("198.18.0.0/15", 31, 1500)...)
	split := remoteSplit(1, traffic.Whole)
	split.Candidates[0].Clients.Never = inOne
	lab.apply(split)
	stop, done := make(chan struct{}), make(chan answers, 1)
	go func() { done <- lab.load(0, stop, service25v4, service25v6) }()
	for i := range 4 {
		lab.kernel.link.room = []int{roomMin, roomMax}[i%2]
		for _, networks := range [][]netip.Prefix{inTwo, inOne, inMany, inTwo, inMany, inOne} {
			split.Generation++
			split.Candidates[0].Clients.Never = networks
			if !lab.apply(split) {
				t.Error("nothing changed")
			}
		}
	}
	close(stop)
	got := <-done
	if len(got.failed) > 0 || got.by[fromNew] > 0 || got.by[fromOld] == 0 {
		t.Errorf("answers %v, %d failed, want all from the primary; the first failure: %v", got.by, len(got.failed), slices.Concat(got.failed, []error{nil})[0])
	}
	t.Logf("%d connections", got.by[fromOld])
}

func TestReadTellsWhoIsInTheGroups(t *testing.T) {
	lab := newSplitLab(t)
	split := remoteSplit(1, 0)
	want := traffic.Clients{
		Always: prefixes("0.0.0.0/2", "128.0.0.0/1", "2001:db8:a::/48", "8000::/1"),
		Never:  prefixes("100.64.0.0/10", "2001:db8:b::1/128"),
	}
	split.Candidates[0].Clients = want
	lab.apply(split)
	if diff := cmp.Diff(map[string]traffic.Clients{"new": want}, lab.read()["mx"].Clients, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}
}

func TestRunsOfAddressesAreToldAsNetworks(t *testing.T) {
	run := func(first, last string) network {
		return network{first: string(netip.MustParseAddr(first).AsSlice()), end: string(netip.MustParseAddr(last).Next().AsSlice())}
	}
	for _, tc := range []struct {
		run  network
		want []netip.Prefix
	}{
		{run("10.0.0.0", "10.0.0.255"), prefixes("10.0.0.0/24")},
		{run("10.0.0.1", "10.0.0.6"), prefixes("10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32")},
		{run("0.0.0.0", "255.255.255.255"), prefixes("0.0.0.0/0")},
		{run("255.255.255.254", "255.255.255.255"), prefixes("255.255.255.254/31")},
		{run("::1", "::1"), prefixes("::1/128")},
		{run("fe00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), prefixes("fe00::/7")},
	} {
		got := prefixesOf(map[network]bool{tc.run: true})
		if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.run.text(), diff)
		}
	}
}
