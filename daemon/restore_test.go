package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// The kernel is ahead of the snapshot after a lowering that was not recorded:
// what it has closed stays closed.
func TestRestoreKeepsWhatTheKernelHasClosedSinceTheSnapshot(t *testing.T) {
	group := traffic.Clients{Always: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
	ip := netip.MustParseAddr("10.0.0.12")
	split := traffic.Split{
		Name: "mx", Generation: 4,
		Service: traffic.Service{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.25")}, Ports: []traffic.Port{{Number: 25, Transport: traffic.TCP}}},
		Primary: traffic.Backend{Name: "old", Local: true},
		Candidates: []traffic.Backend{
			{Name: "new", Addresses: []traffic.Address{{IP: ip}}, Weight: 100_000, Clients: group},
			{Name: "other", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.13")}}, Weight: 100_000, Closed: true},
		},
		Health: traffic.Health{Check: traffic.CheckTCP, Interval: time.Second},
	}
	weights := map[string]traffic.Weight{"new": 0, "other": 50_000}
	for name, test := range map[string]struct {
		kernel netfilter.SplitState
		closed [2]bool
		down   []netip.Addr
	}{
		"nothing": {netfilter.SplitState{}, [2]bool{}, nil},
		"a drain": {netfilter.SplitState{Closed: []string{"new"}}, [2]bool{true, false}, nil},
		"off":     {netfilter.SplitState{Forced: true}, [2]bool{true, true}, nil},
		"health":  {netfilter.SplitState{Down: map[string]netfilter.Families{"new": {IPv4: true}}}, [2]bool{}, []netip.Addr{ip}},
	} {
		test.kernel.Generation, test.kernel.Weights = 5, weights
		got, err := asStanding(split, test.kernel)
		if err != nil {
			t.Fatal(err)
		}
		if got.Generation != 5 || !cmp.Equal(got.Weights(), weights) {
			t.Errorf("%s: generation %d, weights %v", name, got.Generation, got.Weights())
		}
		if closed := [2]bool{got.Candidates[0].Closed, got.Candidates[1].Closed}; closed != test.closed {
			t.Errorf("%s: closed %v, want %v", name, closed, test.closed)
		}
		if down := got.Candidates[0].Down; !cmp.Equal(down, test.down, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
			t.Errorf("%s: down %v, want %v", name, down, test.down)
		}
	}
	if split.Candidates[0].Weight != 100_000 || split.Candidates[0].Closed {
		t.Error("the snapshot's split was changed")
	}
}

func TestCleanupDoesNotAnnounceWeightsThatAForcedOffHasTaken(t *testing.T) {
	snapshot := state.Snapshot{SavedAt: noon, Splits: []traffic.Split{mx(percent(40))}}
	for name, c := range map[string]struct {
		forced []state.Forced
		want   []string
	}{
		"no forced off":      {nil, []string{"mx 40%"}},
		"of all, since then": {[]state.Forced{{Time: noon.Add(time.Second)}}, nil},
		"of another split":   {[]state.Forced{{Time: noon.Add(time.Second), Splits: []string{"web"}}}, []string{"mx 40%"}},
		"raised again since": {[]state.Forced{{Time: noon.Add(-time.Second)}}, []string{"mx 40%"}},
	} {
		if diff := cmp.Diff(c.want, returning(snapshot, c.forced)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
