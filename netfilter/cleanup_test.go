package netfilter

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/traffic"
)

// cleanup stops the daemon's half, cleans up and opens it again.
func (lab *splitLab) cleanup(now bool) (result CleanupResult) {
	lab.t.Helper()
	_ = lab.kernel.Close()
	defer func() { lab.kernel = lab.open() }()
	lab.router.Do(func() (err error) { result, err = Cleanup(lab.t.Context(), labSettings, now); return err })
	return result
}

func (lab *splitLab) snapshot() netns.Snapshot {
	lab.t.Helper()
	s, err := lab.router.Snapshot()
	if err != nil {
		lab.t.Fatal(err)
	}
	return s
}

// others puts rules of another program into the router: a nat table with the
// same hook and a table with a name like ours.
func (lab *splitLab) others() {
	lab.t.Helper()
	lab.router.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		for _, table := range []*nftables.Table{
			c.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4}),
			c.AddTable(&nftables.Table{Name: "split", Family: nftables.TableFamilyINet}),
		} {
			set := &nftables.Set{Table: table, Name: "banned", KeyType: nftables.TypeIPAddr}
			if err := c.AddSet(set, []nftables.SetElement{{Key: netip.MustParseAddr("203.0.113.1").AsSlice()}}); err != nil {
				return err
			}
			chain := c.AddChain(&nftables.Chain{
				Name: "input", Table: table, Type: nftables.ChainTypeFilter,
				Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
			})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}})
		}
		return c.Flush()
	})
}

func TestNothingOfOthersIsTouched(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.others()
	before := lab.snapshot()
	masquerades := remoteSplit(1, 500_000)
	masquerades.Return = traffic.ReturnMasquerade
	lab.apply(masquerades)
	lab.setWeights(remoteSplit(2, 1))
	lab.apply(localSplit(3, 1), masqueradeOn(26))
	lab.apply()
	lab.kernel = lab.open()
	lab.apply(localSplit(4, 500_000))
	lab.load(100, nil, service25v4, service25v6)
	lab.forceOff("")
	lab.cleanup(true)
	if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
		t.Errorf("differences after cleanup: %q", lines)
	}
}

func masqueradeOn(port uint16) traffic.Split {
	s := remoteSplit(1, 1)
	s.Name, s.Return = "other", traffic.ReturnMasquerade
	s.Service.Ports = []traffic.Port{{Number: port, Transport: traffic.TCP}}
	return s
}

func TestLiveFlowsSurviveCleanup(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	for _, service := range []string{service25v4, service25v6} {
		before := lab.snapshot()
		lab.apply(localSplit(1, traffic.Whole))
		c, letter := lab.dial(service)
		if letter != fromNew {
			t.Fatalf("%c answers", letter)
		}
		for range 2 {
			if got, want := lab.cleanup(false), (CleanupResult{LiveFlows: 1, KeeperLeft: true}); got != want {
				t.Errorf("cleanup with a live flow = %+v, want %+v", got, want)
			}
			if err := echoes(c); err != nil {
				t.Errorf("the live flow after cleanup: %v", err)
			}
		}
		if got := lab.load(50, nil, service); got.by[fromLocal] != 50 {
			t.Errorf("new flows after cleanup: %v", got)
		}
		_ = c.Close()
		lab.eventually("the keeper goes after the flow", func() bool { return lab.cleanup(false) == CleanupResult{} })
		if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
			t.Errorf("differences after cleanup: %q", lines)
		}
	}
}

func TestCleanupNowEndsLiveFlows(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.others()
	before := lab.snapshot()
	for _, keeper := range []bool{false, true} {
		lab.apply(localSplit(1, traffic.Whole))
		c, _ := lab.dial(service25v4)
		if keeper {
			lab.cleanup(false)
		}
		if got, want := lab.cleanup(true), (CleanupResult{LiveFlows: 1}); got != want {
			t.Errorf("cleanup now = %+v, want %+v", got, want)
		}
		started := time.Now()
		if err := echoes(c); err == nil {
			t.Error("the live flow still works")
		}
		if waited := time.Since(started); waited > 2*time.Second {
			t.Errorf("the client waited %s for its reset", waited)
		}
		if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
			t.Errorf("differences after cleanup: %q", lines)
		}
	}
	if got := lab.cleanup(false); got != (CleanupResult{}) {
		t.Errorf("cleanup of a clean host = %+v", got)
	}
}

func TestApplyTakesOverFromAKeeper(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.apply(localSplit(1, traffic.Whole))
	c, _ := lab.dial(service25v4)
	lab.cleanup(false)
	lab.apply(localSplit(2, 0))
	if err := echoes(c); err != nil {
		t.Errorf("the live flow after cleanup and apply: %v", err)
	}
	lab.router.Do(func() error {
		kept, err := lab.kernel.link.hasTable(TableKeeper)
		if kept {
			t.Error("the keeper is left")
		}
		return err
	})
}

func TestFlowsOfARemovedSplitLiveOn(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.apply(localSplit(1, traffic.Whole))
	c, _ := lab.dial(service25v6)
	lab.apply()
	if states := lab.read(); len(states) > 0 {
		t.Errorf("the removed split is still read: %v", states)
	}
	lab.clock.advance(2 * retireAfter)
	lab.apply()
	if err := echoes(c); err != nil {
		t.Errorf("the live flow after its split was removed: %v", err)
	}
	if got := lab.load(50, nil, service25v4, service25v6); got.by[fromLocal] != 50 {
		t.Errorf("new flows after the split was removed: %v", got)
	}
	lab.router.Do(func() error {
		seen, err := lab.kernel.link.observe(everything)
		have := seen.table(TableSplits)
		for _, name := range have.chainNames() {
			if ours(name) {
				t.Errorf("chain %s is left", name)
			}
		}
		if len(have.counters) > 0 {
			t.Errorf("counters are left: %v", have.counters)
		}
		return err
	})
}

func TestAHostWithoutSplitsIsLeftAlone(t *testing.T) {
	lab := newSplitLab(t)
	before := lab.snapshot()
	if lab.apply() {
		t.Error("Apply says that it changed something")
	}
	if lines := before.Differences(lab.snapshot()); len(lines) > 0 {
		t.Errorf("differences: %q", lines)
	}
}

func TestOpenConnectionsAreCountedBySocket(t *testing.T) {
	const text4 = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: C800000A:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: C800000A:0019 640200C0:8235 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: C800000A:0019 640200C0:8236 06 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 0C00000A:0019 640200C0:8237 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
`
	const text6 = `   1: 0000000000000000FFFF0000C800000A:0019 0000000000000000FFFF0000640200C0:8238 08 0 0
   2: 000000FD000000000000000000020000:0019 0000000000000000FFFF0000640200C0:8239 01 0 0
`
	kept := []netip.Addr{netip.MustParseAddr("10.0.0.200"), netip.MustParseAddr("fd00::200")}
	if got := countSockets(text4+text6, kept); got != 3 {
		t.Errorf("%d connections, want 3", got)
	}
}
