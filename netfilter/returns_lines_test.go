package netfilter

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// What is missing in the kernel is told of the path that lacks it.
func TestADifferenceIsKnownByItsPath(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	paths := append(byAddress()[:1:1], traffic.ReturnPath{Name: "lost", Via: addr("10.0.0.77"), Device: "eth0", Match: traffic.MatchAddress, Address: addr("10.0.0.77")})
	want, err := BuildReturns(paths, labSettings)
	if err != nil {
		t.Fatal(err)
	}
	whole := want
	whole.routes = nil
	for _, r := range want.routes {
		if r.blackhole || r.table != labSettings.RouteTable+1 {
			whole.routes = append(whole.routes, r)
		}
	}
	lab.host.Do(func() error { _, err := applyReturns(t.Context(), whole); return err })
	of := LinesOfPaths(paths, labSettings)
	got := map[string]int{}
	for _, line := range lab.differences(paths) {
		i, known := of[line]
		if !known {
			i = -1
		}
		got[line] = i
	}
	if diff := cmp.Diff(map[string]int{"ip route add default via 10.0.0.77 dev eth0 table 5301 protocol 83: missing": 1}, got); diff != "" {
		t.Errorf("differences by path (-want +got):\n%s", diff)
	}
}

func TestADifferenceOfTwoPathsIsOfNeither(t *testing.T) {
	paths := append(byAddress()[:1:1], byAddress()[0])
	paths[1].Address = addr("10.0.0.201")
	of := LinesOfPaths(paths, labSettings)
	if i, known := of[guard(labSettings, paths[0].Via).addition()]; known {
		t.Errorf("the guard of the router of both is told to be of %d", i)
	}
}
