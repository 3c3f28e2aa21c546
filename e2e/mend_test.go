package e2e

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
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

func TestAFlushedRulesetIsMendedWithinTwoSeconds(t *testing.T) {
	l := newLab(t)
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
