package netfilter

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

func (lab *splitLab) describe(splits []traffic.Split, paths ...traffic.ReturnPath) (d Description) {
	lab.t.Helper()
	lab.router.Do(func() (err error) { d, err = lab.kernel.Describe(lab.t.Context(), splits, paths); return err })
	return d
}

// The description of what is to come is that of what is there afterwards, to
// the number of each version.
func TestDescribeIsTheTextInTheKernelAndTheTextThatComes(t *testing.T) {
	lab := newSplitLab(t)
	if diff := cmp.Diff(Description{Rules: []string{}, Routes: []string{}}, lab.describe(nil)); diff != "" {
		t.Errorf("an untouched host (-want +got):\n%s", diff)
	}
	for i, weights := range [][]traffic.Weight{{10_000, 0}, {20_000, 5_000}, {0, 6_000}, {30_000, 7_000}} {
		splits := severalSplits(traffic.Generation(i+1), weights...)
		coming := lab.describe(append(splits, proxied()))
		lab.clock.advance(2 * retireAfter) // what is not in force goes
		if i == 0 {
			lab.apply(splits...)
		} else {
			lab.setWeights(splits...)
		}
		lab.clock.advance(2 * retireAfter)
		lab.kernel.retire()
		there := lab.describe(splits)
		if diff := cmp.Diff(coming, there); diff != "" {
			t.Errorf("step %d: what came is another (-described before +after):\n%s", i, diff)
		}
		if diff := cmp.Diff(lab.chains(), chainsIn(there.Nft)); diff != "" {
			t.Errorf("step %d: chains (-kernel +described):\n%s", i, diff)
		}
		if want := `return comment "state_dir=/var/lib/splitd"`; !strings.Contains(there.Nft, want) {
			t.Errorf("step %d: %s is missing", i, want)
		}
	}
	pure, err := Describe(severalSplits(4, 30_000, 7_000), nil, labSettings)
	if err != nil {
		t.Fatal(err)
	}
	lab.kernel = lab.open() // a new process learns it from the kernel
	text := strings.NewReplacer("split/s1/v3", "split/s1/v1", "split/s2/v3", "split/s2/v1", "\t\treturn comment \"state_dir=/var/lib/splitd\"\n", "").Replace(lab.describe(severalSplits(4, 30_000, 7_000)).Nft)
	if diff := cmp.Diff(pure.Nft, text); diff != "" {
		t.Errorf("other than the pure text in more than versions and state_dir (-pure +kernel):\n%s", diff)
	}
}

func proxied() traffic.Split {
	s := severalSplits(9, 1, 1, 1)[2]
	s.Mode = traffic.ModeProxy
	return s
}

// chains lists the chains of the kernel's table.
func (lab *splitLab) chains() []string {
	lab.t.Helper()
	var names []string
	lab.router.Do(func() error {
		have, err := lab.kernel.observe()
		names = have.table(TableSplits).chainNames()
		return err
	})
	return names
}

func chainsIn(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "\tchain "); ok {
			names = append(names, strings.TrimSuffix(name, " {\n"))
		}
	}
	slices.Sort(names)
	return names
}

func TestDescribeKnowsTheHostsReturnPaths(t *testing.T) {
	lab := newSplitLab(t)
	lab.router.Sysctl("net/ipv6/conf/eth2/disable_ipv6", "1")
	path := traffic.ReturnPath{Name: "tunnel", Device: "eth2", Match: traffic.MatchMark}
	both := traffic.ReturnPath{Name: "both", Via: netip.MustParseAddr("2001:db8:1::11"), Device: "eth1", Match: traffic.MatchAddress, Address: netip.MustParseAddr("2001:db8:1::1")}
	d := lab.describe(nil, path, both)
	if !strings.HasPrefix(d.Nft, "table inet splitd_return {\n") {
		t.Errorf("text: %s", d.Nft)
	}
	for _, line := range slices.Concat(d.Rules, d.Routes) {
		if strings.HasPrefix(line, "ip -6") && strings.Contains(line, " 5300 ") {
			t.Errorf("%q is for a device that does not speak IPv6", line)
		}
	}
	lab.router.Do(func() error {
		if _, err := lab.kernel.Apply(t.Context(), nil, []traffic.ReturnPath{path, both}); err != nil {
			return err
		}
		rules, err := readRules()
		if err != nil {
			return err
		}
		routes, err := readRoutes()
		if err != nil {
			return err
		}
		if len(rules) != len(d.Rules) || len(routes) != len(d.Routes) {
			t.Errorf("the kernel has %d rules and %d routes, described were %q and %q", len(rules), len(routes), d.Rules, d.Routes)
		}
		return nil
	})
}
