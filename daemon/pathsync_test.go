package daemon

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

func TestAPathThatLacksItsWayIsNotInSyncAndTheOthersAre(t *testing.T) {
	settings := netfilter.Settings{MarkMask: 0xfff00000, RouteTable: 5300, RulePriority: 5200}
	path := func(name, via string) traffic.ReturnPath {
		return traffic.ReturnPath{Name: name, Device: "eth0", Match: traffic.MatchAddress, Via: netip.MustParseAddr(via), Address: netip.MustParseAddr("10.0.0.20" + name)}
	}
	paths := []traffic.ReturnPath{path("1", "10.0.0.1"), path("2", "10.0.0.77")}
	split := mx(0)
	for name, test := range map[string]struct {
		drift []string
		want  []bool // the paths, the split
	}{
		"nothing differs":      {nil, []bool{true, true, true}},
		"one lacks its way":    {[]string{"ip route add default via 10.0.0.77 dev eth0 table 5301 protocol 83: missing"}, []bool{true, false, true}},
		"whose it is, unknown": {[]string{"something else"}, []bool{false, false, false}},
	} {
		r := reading{drift: test.drift, ofPaths: netfilter.LinesOfPaths(paths, settings)}
		if diff := cmp.Diff(test.want, []bool{*r.pathInSync(0), *r.pathInSync(1), *r.inSync(split)}); diff != "" {
			t.Errorf("%s: in sync (-want +got):\n%s", name, diff)
		}
	}
}
