package netfilter

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

func TestApplyingTheSameAgainMakesNoTransaction(t *testing.T) {
	lab := newSplitLab(t)
	many := remoteSplit(3, 50_000)
	many.Name, many.Return = "web", traffic.ReturnMasquerade
	many.Service.Ports = []traffic.Port{{Number: 80, Transport: traffic.TCP}, {Number: 443, Transport: traffic.TCP}}
	many.Candidates = append(many.Candidates, traffic.Backend{Name: "newer", Weight: 1, Addresses: addresses("10.0.2.13:8080", "[2001:db8:2::13]:8080")})
	off := localSplit(1, 0)
	off.Name = "off"
	off.Service.Ports = []traffic.Port{{Number: 26, Transport: traffic.TCP}}
	splits := []traffic.Split{localSplit(15, 50_000), many, off}
	if !lab.apply(splits...) {
		t.Error("first Apply says that nothing changed")
	}
	before := lab.generation()
	if lab.apply(splits...) {
		t.Error("second Apply says that it changed something")
	}
	lab.kernel = lab.open() // as a restarted daemon does
	if lab.apply(splits...) {
		t.Error("Apply after a restart says that it changed something")
	}
	if after := lab.generation(); after != before {
		t.Errorf("ruleset generation %d after applying the same again, was %d", after, before)
	}
	if lines := lab.differences(splits...); len(lines) > 0 {
		t.Errorf("differences: %q", lines)
	}
	want := map[string]SplitState{
		"mx":  {Generation: 15, Weights: map[string]traffic.Weight{"new": 50_000}},
		"web": {Generation: 3, Weights: map[string]traffic.Weight{"new": 50_000, "newer": 1}},
		"off": {Generation: 1, Weights: map[string]traffic.Weight{"new": 0}},
	}
	if diff := cmp.Diff(want, lab.read()); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func TestAReturnPathThatCannotBeMadeLeavesTheSplitsAsTheyWere(t *testing.T) {
	lab := newSplitLab(t)
	lab.apply(remoteSplit(1, 0))
	lab.router.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{
			Table: labSettings.RouteTable, Protocol: unix.RTPROT_STATIC, Priority: 4000, Dst: anywhere(unix.AF_INET), Type: unix.RTN_BLACKHOLE,
		})
	})
	path := traffic.ReturnPath{Name: "back", Via: netip.MustParseAddr("10.0.1.11"), Device: "eth1", Match: traffic.MatchAddress, Address: netip.MustParseAddr("192.0.2.25")}
	for _, splits := range [][]traffic.Split{{remoteSplit(2, 500_000)}, {}} {
		generation := lab.generation()
		lab.router.Do(func() error {
			_, err := lab.kernel.Apply(t.Context(), splits, []traffic.ReturnPath{path})
			if err == nil || !strings.HasPrefix(err.Error(), "apply return paths to the kernel: ") {
				t.Errorf("error is %v", err)
			}
			return nil
		})
		if after := lab.generation(); after != generation {
			t.Errorf("%d transactions were made", after-generation)
		}
	}
	if lines := lab.differences(remoteSplit(1, 0)); len(lines) == 0 || strings.Contains(strings.Join(lines, "\n"), "split") {
		t.Errorf("differences: %q, want only what the path left", lines)
	}
}
