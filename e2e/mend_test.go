package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
)

// mended waits until new connections go to that backend again and returns how
// long it took since then.
func (l *lab) mended(since time.Time, want string) time.Duration {
	l.t.Helper()
	l.eventually("new connections go to "+want, func() bool { return l.who(service4+":25") == want })
	return time.Since(since)
}

// names fails unless the log says that this process did it.
func (l *lab) names(what string) {
	l.t.Helper()
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		l.t.Fatal(err)
	}
	want := []string{"level=WARN", "; mended", "comm=" + strings.TrimSpace(string(comm)), "pid=" + strconv.Itoa(os.Getpid()), what}
	l.eventually("the log names who did it and what", func() bool {
		for line := range strings.Lines(l.log.String()) {
			if containsAll(line, want) {
				return true
			}
		}
		return false
	})
}

func containsAll(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// openConfig leaves the tables open to all, as kernels before 6.9 do.
const openConfig = "netfilter: {owner: never}" + kernelConfig

func TestAFlushedRulesetIsMendedWithinTwoSeconds(t *testing.T) {
	l := newLab(t)
	l.configure(openConfig)
	l.start()
	l.ok("set", "mx", "100%")
	for range 3 {
		l.servedBy("new")
		before := l.status()
		l.reboot() // nft flush ruleset
		took := l.mended(time.Now(), "new")
		t.Logf("mended after %v", took)
		if took > 2*time.Second {
			t.Errorf("mended after %v, want at most 2 s", took)
		}
		l.servedBy("new")
		if s := l.status(); s.Generation != before.Generation || s.WeightPPM != 1_000_000 || !s.Kernel.Synced() {
			t.Errorf("status = %d ppm at generation %d, in sync %v; want 1000000 at %d, true", s.WeightPPM, s.Generation, s.Kernel.Synced(), before.Generation)
		}
	}
	l.names("table inet splitd is missing")
	if h := l.newest(); h.Action != "set" {
		t.Errorf("the history's newest is %q, want the set", h.Action)
	}
}

func TestWhatIsObservedBeginsAgainWhenTheKernelIsMended(t *testing.T) {
	l := newLab(t)
	l.configure(openConfig)
	l.start()
	l.ok("set", "mx", "100%")
	for range 30 {
		l.who(service4 + ":25")
	}
	l.ok("set", "mx", "50%") // begins with 30 flows on the one side
	l.reboot()
	l.names("table inet splitd is missing")
	sent := map[string]int{}
	for sent["new"] <= 30 { // more than before
		sent[l.who(service4+":25")]++
	}
	s := l.status()
	if want := sent["new"] * 1_000_000 / (sent["new"] + sent["old"]); s.ObservedPPM == nil || *s.ObservedPPM != want {
		t.Errorf("observed %v of %v, want %d", s.ObservedPPM, sent, want)
	}
}

func TestADeletedRuleIsMendedAndOtherTablesAreLeftAlone(t *testing.T) {
	l := newLab(t)
	l.configure(openConfig)
	l.start()
	l.ok("set", "mx", "100%")
	furnish(t, l.router)
	l.servedBy("new")
	before := l.snapshot()
	c, err := nftables.New(nftables.WithNetNSFd(l.router.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "splitd"}
	rules, err := c.GetRules(table, &nftables.Chain{Table: table, Name: "split/mx"})
	if err != nil || len(rules) != 1 {
		t.Fatalf("rules of the trampoline: %d, %v; want 1", len(rules), err)
	}
	if err := c.DelRule(rules[0]); err != nil {
		t.Fatal(err)
	}
	// The kernel tells of the thread, and the daemon finds its process while it lives.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if took := l.mended(time.Now(), "new"); took > 2*time.Second {
		t.Errorf("mended after %v, want at most 2 s", took)
	}
	l.names("split/mx")
	if s := l.status(); s.Generation != 2 || !s.Kernel.Synced() {
		t.Errorf("generation %d, in sync %v; want 2, true", s.Generation, s.Kernel.Synced())
	}
	for _, d := range before.Differences(l.snapshot()) {
		if strings.Contains(d, "somebody") {
			t.Errorf("another program's table changed: %s", d)
		}
	}
}

// Where the kernel lets tables be owned, a flush of the ruleset by another
// program is no event for splits.
func TestAFlushedRulesetIsNoEventWhereTablesAreOwned(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	c, answers, _ := l.dial(service4 + ":25")
	defer func() { _ = c.Close() }()
	for range 20 {
		l.reboot() // nft flush ruleset
		if who := l.who(service4 + ":25"); who != "new" {
			t.Fatalf("after a flush %q serves, want new", who)
		}
	}
	if _, err := fmt.Fprintln(c, "still there?"); err != nil {
		t.Fatal(err)
	}
	if line, err := answers.ReadString('\n'); err != nil || line != "still there?\n" {
		t.Errorf("the connection from before the flushes answers %q, %v", line, err)
	}
	if s := l.status(); !s.Kernel.Synced() {
		t.Error("status says that the kernel is not in sync")
	}
	if strings.Contains(l.log.String(), "mended") {
		t.Error("something was mended")
	}
}

// included is what nftables.conf includes of ours.
func (l *lab) included() string {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, "include.nft"))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(text)
}

func TestTheFileForNftablesConfIsEmptyWhileTheTablesAreOwned(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "25%")
	if text := l.included(); text != "" {
		t.Errorf("the file says:\n%s", text)
	}
	l.stop()
	if text := l.included(); !strings.Contains(text, "0-249999 : goto split/mx/candidate/new") {
		t.Errorf("without a daemon the file says:\n%s", text)
	}
}

// afterCrash writes the file as the unit does when its daemon has ended.
func (l *lab) afterCrash() {
	l.t.Helper()
	if r := l.run("splitd", "restore", "--include-only", "--config", l.config); r.code != 0 {
		l.t.Fatalf("splitd restore --include-only: exit %d\n%s", r.code, r.stderr)
	}
}

func TestTheFileForNftablesConfHasTheTablesAfterACrashToo(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "25%")
	l.kill()
	if text := l.included(); text != "" {
		t.Fatalf("the daemon owned its tables and the file says:\n%s", text)
	}
	before := l.snapshot()
	l.afterCrash()
	if text := l.included(); !strings.Contains(text, "0-249999 : goto split/mx/candidate/new") || !strings.Contains(text, `comment "gen=2"`) {
		t.Errorf("after the crash the file says:\n%s", text)
	}
	if d := before.Differences(l.snapshot()); len(d) > 0 {
		t.Errorf("the kernel was changed: %v", d)
	}
	l.start()
	l.eventually("the daemon owns its tables again and the file is empty", func() bool { return l.included() == "" })
}

// What the kernel does counts, not what the snapshot remembers.
func TestTheFileForNftablesConfNeverBringsBackWhatAForcedOffHasTaken(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.stop()
	l.ok("off", "--all", "--force")
	if text := l.included(); strings.Contains(text, "candidate") {
		t.Errorf("after a forced off the file says:\n%s", text)
	}
	l.afterCrash()
	if text := l.included(); !strings.Contains(text, `goto split/mx/primary/old comment "gen=3"`) {
		t.Errorf("after the forced off was taken in the file says:\n%s", text)
	}
}

// Who does not know where the socket was is told by the kernel's tables.
func TestTheFileForNftablesConfIsFoundWhereverTheSocketIs(t *testing.T) {
	other := filepath.Join(t.TempDir(), "splitd.sock")
	for name, undo := range map[string][]string{
		"off":     {"splitctl", "--socket", other, "off", "--all", "--force"},
		"cleanup": {"splitd", "cleanup", "--now", "--control-socket", other},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.start()
			l.ok("set", "mx", "30%")
			l.stop()
			if text := l.included(); !strings.Contains(text, "0-299999 : goto split/mx/candidate/new") {
				t.Fatalf("before, the file says:\n%s", text)
			}
			if r := l.run(undo[0], undo[1:]...); r.code != 0 {
				t.Fatalf("%v: exit %d\n%s", undo, r.code, r.stderr)
			}
			if text, err := os.ReadFile(filepath.Join(l.dir, "include.nft")); err == nil && len(text) > 0 {
				t.Errorf("afterwards, the file says:\n%s", text)
			}
		})
	}
}

func TestCleanupLeavesNothingForNftablesConfToBringBack(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.stop()
	if r := l.run("splitd", "cleanup", "--now", "--config", l.config); r.code != 0 {
		t.Fatalf("cleanup: exit %d\n%s", r.code, r.stderr)
	}
	if text, err := os.ReadFile(filepath.Join(l.dir, "include.nft")); err == nil && len(text) > 0 {
		t.Errorf("after a cleanup the file says:\n%s", text)
	}
}

func TestRestoreWritesTheFileForNftablesConf(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "25%")
	l.stop()
	l.reboot()
	if err := os.Remove(filepath.Join(l.dir, "include.nft")); err != nil {
		t.Fatal(err)
	}
	if r := l.run("splitd", "restore", "--config", l.config); r.code != 0 {
		t.Fatalf("restore: exit %d\n%s", r.code, r.stderr)
	}
	if text := l.included(); !strings.Contains(text, "0-249999 : goto split/mx/candidate/new") {
		t.Errorf("after a restore the file says:\n%s", text)
	}
}

func TestTheFileForNftablesConfFollowsTheWeightsWhereTablesAreOpen(t *testing.T) {
	l := newLab(t)
	l.configure(openConfig)
	l.start()
	for weight, draw := range map[string]string{"25%": "0-249999", "5%": "0-49999"} {
		l.ok("set", "mx", weight)
		l.eventually("the file has the weight", func() bool {
			return strings.Contains(l.included(), draw+" : goto split/mx/candidate/new")
		})
	}
}

const receiverConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
return_paths:
  - {name: back, via: 10.2.0.2, device: eth1, match: address, address: 10.2.0.1}
`

// receiverInSync says what status says of the return path.
func (l *lab) receiverInSync() bool {
	l.t.Helper()
	var list api.SplitList
	if err := json.Unmarshal([]byte(l.ok("status", "-o", "json").stdout), &list); err != nil {
		l.t.Fatal(err)
	}
	if len(list.ReturnPaths) != 1 || list.ReturnPaths[0].InSync == nil {
		l.t.Fatalf("status lists the return paths %+v, want one that is known", list.ReturnPaths)
	}
	return *list.ReturnPaths[0].InSync
}

// TestRulesAndRoutesOfAReturnPathAreMendedWithinASecond does what
// systemd-networkd does when it starts, and what `ip link set down` does.
func TestRulesAndRoutesOfAReturnPathAreMendedWithinASecond(t *testing.T) {
	l := newLab(t)
	l.configure(receiverConfig)
	l.start()
	for round := 1; round <= 3; round++ {
		l.router.Do(removeForeign)
		gone := time.Now()
		// Whoever sees it first mends it: who follows the return paths, or, just
		// after the start, who looks whether the rules are all there.
		l.eventually("status says that the return path is in sync", func() bool {
			return strings.Count(l.log.String(), "; mended") >= round && l.receiverInSync()
		})
		t.Logf("mended after %v", time.Since(gone))
	}
	if log := l.log.String(); !strings.Contains(log, "ip rule add pref 5200 to 10.2.0.2 lookup main protocol 83: missing") || !strings.Contains(log, "count=4") {
		t.Error("the log does not say what was missing")
	}

	setLink(t, l.router, "eth1", false)
	l.eventually("status says that the return path is broken", func() bool { return !l.receiverInSync() })
	if plan := l.ok("plan").stdout; !strings.Contains(plan, "ip route add default via 10.2.0.2 dev eth1 table 5300 protocol 83: missing") {
		t.Errorf("plan does not say what differs:\n%s", plan)
	}
	setLink(t, l.router, "eth1", true)
	l.eventually("status says that the return path is in sync", l.receiverInSync)
}

// removeForeign deletes the rules and routes of protocol 83, as a network
// manager does that calls all foreign ones its own.
func removeForeign() error {
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	for _, r := range rules {
		if r.Protocol == 83 {
			err = errors.Join(err, netlink.RuleDel(&r))
		}
	}
	routes, listErr := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: 83}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	for _, r := range routes {
		err = errors.Join(err, netlink.RouteDel(&r))
	}
	return errors.Join(err, listErr)
}

func setLink(t *testing.T, ns *nettest.NS, device string, up bool) {
	t.Helper()
	ns.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
}
