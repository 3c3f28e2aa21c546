package netfilter

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// groupSets are what the kernel has of the two sets of a group: each refuses
// what overlaps.
type groupSets [2]map[network]bool

func newGroupSets(prefixes []netip.Prefix) groupSets {
	s := groupSets{{}, {}}
	for _, n := range networksOf(prefixes) {
		s[0][n] = true
	}
	return s
}

// apply makes a step of a change, as the kernel does in a transaction. A set in
// which it leaves something that overlaps does not count meanwhile: kernels
// that walk a tree may find nothing there.
func (s groupSets) apply(t *testing.T, step [2]setChange) (meanwhile groupSets) {
	t.Helper()
	meanwhile = groupSets{maps.Clone(s[0]), maps.Clone(s[1])}
	for i, change := range step {
		for _, n := range change.remove {
			if !s[i][n] {
				t.Fatalf("%s is removed and is not there", n.text())
			}
			delete(s[i], n)
		}
		for _, n := range change.add {
			for other := range s[i] {
				if !n.before(other) && !other.before(n) {
					t.Fatalf("%s is added and overlaps %s", n.text(), other.text())
				}
			}
			for other := range meanwhile[i] {
				if !n.before(other) && !other.before(n) {
					delete(meanwhile[i], other)
				}
			}
			s[i][n] = true
		}
	}
	return meanwhile
}

func (s groupSets) has(ip netip.Addr) bool {
	at := network{first: string(ip.AsSlice()), end: string(ip.Next().AsSlice())}
	for n := range union(s) {
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
	for i := range 20 {
		cases[fmt.Sprintf("at random, %d", i)] = [2][]netip.Prefix{some(), some()}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			have := newGroupSets(tc[0])
			for _, way := range [][2][]netip.Prefix{tc, {tc[1], tc[0]}, tc} { // there, back, and with sets as that has left them
				regroupWithoutAGap(t, have, way[0], way[1])
			}
		})
	}
}

// regroupWithoutAGap changes the sets and asks, after and within each step, who
// is in them.
func regroupWithoutAGap(t *testing.T, have groupSets, from, to []netip.Prefix) {
	t.Helper()
	before, want := newGroupSets(from), newGroupSets(to)
	change := regroup(have, to)
	for i, step := range [][2]setChange{change.prepare, change.grow, change.shrink} {
		meanwhile := have.apply(t, step)
		for _, p := range slices.Concat(from, to) {
			ip := p.Addr()
			if before.has(ip) && want.has(ip) && (!have.has(ip) || !meanwhile.has(ip)) {
				t.Fatalf("%s is to stay: in step %d it is in a set: %v, after it: %v", ip, i+1, meanwhile.has(ip), have.has(ip))
			}
			if have.has(ip) && !before.has(ip) && !want.has(ip) {
				t.Fatalf("%s is in after step %d, and in neither list", ip, i+1)
			}
		}
	}
	if diff := cmp.Diff(union(want), union(have), cmp.AllowUnexported(network{})); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	if again := regroup(have, to); !reflect.DeepEqual(again, regrouping{}) {
		t.Errorf("a second time there is something to change: %+v", again)
	}
}

// A process that dies amid a change leaves its successor both sets as they are,
// which may want yet other networks.
func TestWhatADeadProcessLeavesOfAChangeIsMended(t *testing.T) {
	one, two, other := prefixes("10.0.0.0/8", "11.0.0.0/8"), parts("10.0.0.0/8", 16, 20), prefixes("10.0.0.0/9", "10.192.0.0/10", "11.128.0.0/9")
	for _, want := range [][]netip.Prefix{one, two, other} {
		for dies := range 4 {
			have := newGroupSets(one)
			regroupWithoutAGap(t, have, one, other)
			change := regroup(have, two)
			for i, step := range [][2]setChange{change.prepare, change.grow, change.shrink} {
				if i < dies {
					have.apply(t, step)
				}
			}
			change = regroup(have, want)
			for _, step := range [][2]setChange{change.prepare, change.grow, change.shrink} {
				have.apply(t, step)
			}
			if diff := cmp.Diff(union(newGroupSets(want)), union(have), cmp.AllowUnexported(network{})); diff != "" {
				t.Errorf("after %d steps, networks (-want +got):\n%s", dies, diff)
			}
			if again := regroup(have, want); !reflect.DeepEqual(again, regrouping{}) {
				t.Errorf("after %d steps, a second time there is something to change: %+v", dies, again)
			}
		}
	}
}

func TestAHundredThousandNetworksOfOneArePlannedAtOnce(t *testing.T) {
	one, many := prefixes("10.0.0.0/8"), parts("10.0.0.0/8", 26, 100_000)
	for _, way := range [][2][]netip.Prefix{{one, many}, {many, one}} {
		c := regroup(newGroupSets(way[0]), way[1])
		if n := len(c.grow[1].add); n != len(way[1]) || len(c.shrink[0].remove) != len(way[0]) {
			t.Errorf("%d networks are added and %d removed, want %d and %d", n, len(c.shrink[0].remove), len(way[1]), len(way[0]))
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
