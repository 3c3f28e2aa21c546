package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestWhereSaysWhenAClientHasMoreOpenFlowsThanItLists(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	for _, n := range []int{clientFlowsMost, clientFlowsMost + 1} {
		w.kernel.open = nil
		w.crowded(n)
		list, err := d.Where(t.Context(), "mx", netip.MustParseAddr("203.0.113.7"))
		if err != nil || len(list.Items) != 1 || len(list.Items[0].Flows) != clientFlowsMost {
			t.Fatalf("of %d flows: %v, %d items", n, err, len(list.Items))
		}
		more := len(list.Warnings) == 1 && strings.Contains(list.Warnings[0], "more open flows than the 1000 that are listed")
		if more != (n > clientFlowsMost) {
			t.Errorf("of %d flows it warns %q", n, list.Warnings)
		}
	}
}

func TestAReloadSaysWhatNeedsARestart(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	changed := d.options.Config
	changed.FlowLog = configs.FlowLog{To: "journal"}
	d.options.Reload = func() (configs.Config, error) { return changed, nil }
	answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
	if err != nil || !strings.Contains(strings.Join(answer.Warnings, "\n"), "changed, but needs a restart of splitd: flow_log") {
		t.Errorf("the reload says %q, %v", answer.Warnings, err)
	}
}

func TestWhereSaysThatAShadowIsPaused(t *testing.T) {
	w := newWorld(t, shadowedSplit("web", netip.MustParseAddrPort("127.0.0.1:1"), traffic.Whole)) // where nobody listens
	d := w.mustBoot()
	sampled := func() *api.Sampled {
		list, err := d.Where(t.Context(), "web", netip.MustParseAddr("127.0.0.9"))
		if err != nil {
			t.Fatal(err)
		}
		return list.Items[0].Sampled
	}
	if s := sampled(); s == nil || s.Paused != "" {
		t.Errorf("before the candidate has failed: %+v", s)
	}
	nettest.Eventually(t, "the candidate is left alone", func() bool {
		visit(d, "web")
		return sampled().Paused != ""
	})
}
