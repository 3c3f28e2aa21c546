package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// furnish gives the router what other people's programs put there: a table
// with a nat chain and a rule, an ip rule, a route in a table of its own.
func furnish(t *testing.T, ns *nettest.NS) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "somebody"})
	chain := c.AddChain(&nftables.Chain{
		Name: "pre", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	ns.Do(func() error {
		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Mark = 5100, 5100, 0x42
		if err := netlink.RuleAdd(rule); err != nil {
			return err
		}
		_, to, err := net.ParseCIDR("203.0.113.0/24")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: to, LinkIndex: link.Attrs().Index, Table: 5100})
	})
}

func (l *lab) snapshot() netns.Snapshot {
	l.t.Helper()
	s, err := l.router.Snapshot()
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// foreign is what the snapshot holds that is not ours.
func foreign(s netns.Snapshot) string {
	var kept []string
	for line := range strings.Lines(s.Text()) {
		if strings.HasPrefix(line, "nft:") && strings.Contains(line, "splitd") {
			continue
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

func TestNothingOfAnyoneElsesIsEverTouched(t *testing.T) {
	l := newLab(t)
	furnish(t, l.router)
	before := l.snapshot()
	steps := []struct {
		name string
		do   func()
	}{
		{"run", func() { l.start() }},
		{"set", func() { l.ok("set", "mx", "50%") }},
		{"kill -9", l.kill},
		{"restart", func() { l.start() }},
		{"stop", l.stop},
		{"restore", func() { l.succeeds("restore") }},
		{"cleanup", func() { l.succeeds("cleanup") }},
	}
	for _, step := range steps {
		step.do()
		if got, want := foreign(l.snapshot()), foreign(before); got != want {
			t.Fatalf("after %s what others own has changed:\n%s\nbefore:\n%s", step.name, got, want)
		}
	}
	if d := before.Differences(l.snapshot()); len(d) > 0 {
		t.Errorf("after cleanup the namespace is not as before:\n%s", strings.Join(d, "\n"))
	}
}

// succeeds runs a command of splitd with the lab's configuration.
func (l *lab) succeeds(command string, args ...string) result {
	l.t.Helper()
	r := l.run("splitd", append([]string{command, "--config", l.config}, args...)...)
	if r.code != 0 {
		l.t.Fatalf("splitd %s: exit %d\n%s", command, r.code, r.stderr)
	}
	return r
}

// talks says whether a connection still carries a line there and back.
func talks(c net.Conn, r *bufio.Reader) error {
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	line, err := r.ReadString('\n')
	if err != nil {
		return err
	}
	if line != "hello\n" {
		return fmt.Errorf("got %q back", line)
	}
	return nil
}

func TestLiveFlowsSurviveCleanupAndTheKeeperGoesWithThem(t *testing.T) {
	l := newLab(t)
	before := l.snapshot()
	l.start()
	l.ok("set", "mx", "100%")
	c4, r4, name4 := l.dial(service4 + ":25")
	c6, r6, name6 := l.dial("[" + service6 + "]:25")
	if name4 != "new" || name6 != "new" {
		t.Fatalf("served by %q and %q, want new", name4, name6)
	}
	l.stop()
	if r := l.succeeds("cleanup"); !strings.Contains(r.stderr, "keeper") {
		t.Errorf("cleanup under live flows said %q, want the keeper named", r.stderr)
	}
	if err := talks(c4, r4); err != nil {
		t.Errorf("IPv4 flow after cleanup: %v", err)
	}
	if err := talks(c6, r6); err != nil {
		t.Errorf("IPv6 flow after cleanup: %v", err)
	}
	l.servedBy("old")
	for _, c := range []net.Conn{c4, c6} {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	l.eventually("the keeper is gone", func() bool {
		return !strings.Contains(l.succeeds("cleanup").stderr, "keeper")
	})
	if d := before.Differences(l.snapshot()); len(d) > 0 {
		t.Errorf("after cleanup the namespace is not as before:\n%s", strings.Join(d, "\n"))
	}
}

func TestCleanupNowEndsLiveFlows(t *testing.T) {
	l := newLab(t)
	before := l.snapshot()
	l.start()
	l.ok("set", "mx", "100%")
	c, r, _ := l.dial(service4 + ":25")
	defer func() { _ = c.Close() }()
	l.stop()
	l.succeeds("cleanup", "--now")
	if err := talks(c, r); err == nil {
		t.Error("the flow lives on after cleanup --now")
	}
	if d := before.Differences(l.snapshot()); len(d) > 0 {
		t.Errorf("after cleanup the namespace is not as before:\n%s", strings.Join(d, "\n"))
	}
}

func TestCleanupRefusesWhileTheDaemonRuns(t *testing.T) {
	l := newLab(t)
	l.start()
	if r := l.run("splitd", "cleanup", "--config", l.config); r.code != 1 || !strings.Contains(r.stderr, "is running") {
		t.Errorf("cleanup: exit %d, %q; want it refused", r.code, r.stderr)
	}
}

func TestFlowsAndSharesOutliveTheDaemon(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	c, r, _ := l.dial(service4 + ":25")
	defer func() { _ = c.Close() }()
	for _, end := range []func(){l.stop, l.kill} {
		end()
		l.servedBy("new")
		if err := talks(c, r); err != nil {
			t.Fatalf("a flow without the daemon: %v", err)
		}
		l.start()
		if s := l.status(); s.Generation != 2 || !s.Kernel.Synced() {
			t.Errorf("after the restart: generation %d, in sync %v, want 2, true", s.Generation, s.Kernel.Synced())
		}
	}
}

func TestRestorePutsTheLastGenerationInPlaceWithoutDaemonAndDatabase(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.stop()
	l.reboot()
	l.servedBy("old")
	remove(t, l.dir+"/state/state.db")
	l.succeeds("restore")
	l.servedBy("new")
	l.start()
	if s := l.status(); s.WeightPPM != 1_000_000 || s.Generation != 2 {
		t.Errorf("status = %d ppm at generation %d, want 1000000 at 2", s.WeightPPM, s.Generation)
	}
}

func TestABrokenConfigurationKeepsNobodyFromRestoringAndCleaningUp(t *testing.T) {
	l := newLab(t)
	before := l.snapshot()
	l.start()
	l.ok("set", "mx", "100%")
	l.stop()
	l.reboot()
	l.configure("splits: nonsense # %s")
	if r := l.succeeds("restore", "--state-dir", l.dir+"/state"); !strings.Contains(r.stderr, "splitd.yaml:1:") {
		t.Errorf("restore said %q, want what is wrong with the file", r.stderr)
	}
	l.servedBy("new")
	remove(t, l.config)
	l.succeeds("cleanup", "--state-dir", l.dir+"/state")
	if d := before.Differences(l.snapshot()); len(d) > 0 {
		t.Errorf("after cleanup the namespace is not as before:\n%s", strings.Join(d, "\n"))
	}
}

// reboot empties the router's ruleset, as a boot does.
func (l *lab) reboot() {
	l.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(l.router.FD()))
	if err != nil {
		l.t.Fatal(err)
	}
	c.FlushRuleset()
	if err := c.Flush(); err != nil {
		l.t.Fatal(err)
	}
}
