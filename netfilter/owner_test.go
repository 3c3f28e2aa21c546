package netfilter

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// openOwner opens a Kernel that owns its tables, in place of the lab's.
func (lab *splitLab) openOwner() {
	lab.t.Helper()
	settings := labSettings
	settings.Owner = OwnerAuto
	lab.kernel = lab.openWith(settings)
	if !lab.kernel.link.owner.wanted {
		lab.t.Fatal("this kernel knows no owned tables: these tests are for Linux 6.9 and later")
	}
}

// owned says whether all tables of the splits are.
func (lab *splitLab) owned() bool {
	lab.t.Helper()
	var tables []*nftables.Table
	var owned ownership
	lab.router.Do(func() (err error) {
		if tables, err = lab.kernel.link.splitTables(); err != nil {
			return err
		}
		owned, err = lab.kernel.ownership()
		return err
	})
	return len(tables) > 0 && !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return !owned.of(t.Name) })
}

// flushAsOthers is `nft flush ruleset`: all tables that the kernel lets go.
func (lab *splitLab) flushAsOthers() {
	lab.t.Helper()
	lab.router.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.FlushRuleset()
		return conn.Flush()
	})
}

// reloadAsFirewalls is what firewalld and Docker do when they are reloaded: the
// one replaces its table in one transaction, the other fills its chains anew.
func (lab *splitLab) reloadAsFirewalls() {
	lab.t.Helper()
	lab.router.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		firewalld := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewalld"})
		conn.DelTable(firewalld)
		conn.AddTable(firewalld)
		for name, hook := range map[string]*nftables.ChainHook{"filter_FORWARD": nftables.ChainHookForward, "filter_INPUT": nftables.ChainHookInput} {
			chain := conn.AddChain(&nftables.Chain{Table: firewalld, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRef(10)})
			conn.AddRule(&nftables.Rule{Table: firewalld, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		}
		docker := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
		pre := conn.AddChain(&nftables.Chain{Table: docker, Name: "PREROUTING", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
		own := conn.AddChain(&nftables.Chain{Table: docker, Name: "DOCKER"})
		conn.FlushChain(pre)
		conn.FlushChain(own)
		conn.AddRule(&nftables.Rule{Table: docker, Chain: pre, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: own.Name}}})
		conn.AddRule(&nftables.Rule{Table: docker, Chain: own, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}})
		return conn.Flush()
	})
}

// Owned tables make a foreign flush, and a reload of any firewall, no event:
// no new flow falls through and no open one ends.
func TestWhatOtherProgramsReloadUnderLoadCostsNoFlowWhereTablesAreOwned(t *testing.T) {
	t.Parallel()
	for name, reload := range map[string]func(*splitLab){
		"a flush of all": (*splitLab).flushAsOthers, "firewalld's and Docker's reloads": (*splitLab).reloadAsFirewalls,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newSplitLab(t)
			lab.serveAll()
			lab.serveDNS()
			lab.openOwner()
			split := both(remoteSplit(1, 500_000))
			lab.apply(split)
			early, letter := lab.dial(service25v4)
			stop, done := make(chan struct{}), make(chan answers)
			go func() { done <- lab.load(0, stop, service25v4, service25v6, service53v4, service53v6) }()
			const reloads = 200
			for i := range reloads {
				reload(lab)
				if i%10 == 0 {
					split = both(remoteSplit(traffic.Generation(i+2), 500_000))
					lab.setWeights(split)
				}
			}
			close(stop)
			got := <-done
			if len(got.failed) > 0 || got.by[fromLocal] > 0 || got.by[fromOld] == 0 || got.by[fromNew] == 0 {
				t.Errorf("answers: %v", got)
			}
			if err := echoes(early); err != nil {
				t.Errorf("the connection to %c from before the reloads: %v", letter, err)
			}
			if lines := lab.differences(split); len(lines) > 0 || !lab.owned() {
				t.Errorf("after the reloads: owned %v, differences %q", lab.owned(), lines)
			}
		})
	}
}

func TestNobodyElseChangesAnOwnedTable(t *testing.T) {
	lab := newSplitLab(t)
	lab.openOwner()
	lab.apply(remoteSplit(1, 500_000))
	if !lab.owned() {
		t.Error("Owned says that the tables are not")
	}
	lab.router.Do(func() error {
		for name, change := range map[string]func(*nftables.Conn, *nftables.Table){
			"delete": func(c *nftables.Conn, table *nftables.Table) { c.DelTable(table) },
			"flush":  func(c *nftables.Conn, table *nftables.Table) { c.FlushTable(table) },
		} {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			change(conn, &nftables.Table{Name: TableSplits, Family: nftables.TableFamilyINet})
			if err := conn.Flush(); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s by another program: %v, want %v", name, err, unix.EPERM)
			}
		}
		return nil
	})
}

func TestTheSuccessorOwnsTheTablesWithoutATransactionOfRules(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.openOwner()
	lab.apply(remoteSplit(1, traffic.Whole))
	c, _ := lab.dial(service25v4)
	lab.openOwner() // the old process has died
	if lab.apply(remoteSplit(1, traffic.Whole)) {
		t.Error("the successor has changed the rules")
	}
	if !lab.owned() {
		t.Error("the successor does not own the tables")
	}
	if err := echoes(c); err != nil {
		t.Errorf("an open flow after the succession: %v", err)
	}
}

func TestASocketThatBreaksIsNoEndOfOwnership(t *testing.T) {
	lab := newSplitLab(t)
	lab.openOwner()
	lab.apply(remoteSplit(1, 500_000))
	lab.kernel.mu.Lock()
	lab.kernel.link.close()
	lab.kernel.mu.Unlock()
	if lab.owned() {
		t.Fatal("a closed socket owns tables")
	}
	lab.router.Do(func() error {
		lab.kernel.mu.Lock()
		defer lab.kernel.mu.Unlock()
		lab.kernel.keepOwned()
		return nil
	})
	if !lab.owned() {
		t.Error("the tables have not been taken over again")
	}
}

func TestATableThatWasNeverOwnedStaysInForceUnowned(t *testing.T) {
	lab := newSplitLab(t)
	lab.apply(remoteSplit(1, 500_000))
	lab.openOwner()
	if lab.apply(remoteSplit(1, 500_000)) {
		t.Error("the rules were changed")
	}
	if lab.owned() {
		t.Error("Owned says that the tables are")
	}
	lab.setWeights(remoteSplit(2, 400_000))
}

// Linux takes the flag of a former owner away with the table alone.
func TestAStartWithoutAnOwnerNamesTheCleanupThatItNeeds(t *testing.T) {
	lab := newSplitLab(t)
	lab.openOwner()
	lab.apply(remoteSplit(1, 500_000))
	reopen := func() string {
		var log bytes.Buffer
		lab.router.Do(func() error {
			if err := lab.kernel.Close(); err != nil {
				return err
			}
			settings := labSettings
			settings.Owner = "never"
			k, err := Open(Options{Settings: settings, Log: slog.New(slog.NewTextHandler(&log, nil))})
			lab.kernel = k
			return err
		})
		return log.String()
	}
	if got := reopen(); !strings.Contains(got, "cleanup needed") || !strings.Contains(got, "splitd cleanup") {
		t.Errorf("over tables that had an owner the log says %q", got)
	}
	lab.router.Do(func() error {
		if err := lab.kernel.Close(); err != nil {
			return err
		}
		_, err := Cleanup(t.Context(), labSettings, true)
		return err
	})
	if got := reopen(); strings.Contains(got, "cleanup needed") {
		t.Errorf("after a cleanup the log says %q", got)
	}
}

// A load that names an owned table fails as a whole; one that leaves out an
// open table flushes it.
func TestTheTextToIncludeHasTheTablesThatOthersCanTakeAway(t *testing.T) {
	split, dns := remoteSplit(1, 500_000), mirrored(goldenSplits()["dns"][0], "10.0.3.40", traffic.Whole)
	dns.Name, dns.Service.Ports = "dns", []traffic.Port{{Number: 53, Transport: traffic.UDP}}
	splits := []traffic.Split{split, dns}
	paths := []traffic.ReturnPath{{Name: "other", Device: "eth1", Via: netip.MustParseAddr("10.0.1.11"), Match: traffic.MatchMark}}
	open := []string{"table inet splitd_return {", "table ip splitd_mirror {"}
	all := append([]string{"table inet splitd {"}, open...)
	for name, test := range map[string]struct {
		before bool // the table was made without an owner
		want   []string
	}{
		"owned": {false, open}, "made without an owner": {true, all},
	} {
		t.Run(name, func(t *testing.T) {
			lab := newSplitLab(t)
			if test.before {
				lab.apply(splits...)
			}
			lab.openOwner()
			var now, later string
			lab.router.Do(func() (err error) {
				if _, err = lab.kernel.Apply(t.Context(), splits, paths); err != nil {
					return err
				}
				if now, err = lab.kernel.IncludeOpen(t.Context(), splits, paths); err != nil {
					return err
				}
				later, err = lab.kernel.Include(t.Context(), splits, paths)
				return err
			})
			if diff := cmp.Diff(test.want, tablesIn(now)); diff != "" {
				t.Errorf("while a process is there (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(all, tablesIn(later)); diff != "" {
				t.Errorf("for when it is not (-want +got):\n%s", diff)
			}
			if !regexp.MustCompile(`\ttype ether_addr\n\t\telements = \{ ([0-9a-f]{2}:){5}[0-9a-f]{2} comment "10.0.1.11" \}\n`).MatchString(now) {
				t.Errorf("the router's link-layer address is missing:\n%s", now)
			}
			if n := strings.Count(now, "delete table "); n != len(test.want) {
				t.Errorf("%d tables are removed before, want %d:\n%s", n, len(test.want), now)
			}
		})
	}
}

// While the socket is gone the tables are anybody's, but a file that named them
// would make loads fail from a second later on.
func TestTheTextToIncludeNamesNoTableThatIsAboutToBeOwnedAgain(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.openOwner()
	split := remoteSplit(1, 500_000)
	lab.apply(split)
	lab.kernel.mu.Lock()
	lab.kernel.link.close()
	lab.kernel.mu.Unlock()
	var text string
	lab.router.Do(func() (err error) {
		text, err = lab.kernel.IncludeOpen(t.Context(), []traffic.Split{split}, nil)
		return err
	})
	if text != "" || !lab.owned() {
		t.Errorf("owned %v, to be included:\n%s", lab.owned(), text)
	}
}

// tablesIn are the lines with which tables begin.
func tablesIn(text string) (titles []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "table ") {
			titles = append(titles, strings.TrimSpace(line))
		}
	}
	return titles
}

func TestForceOffAndCleanupWorkWhenTheOwnerIsGone(t *testing.T) {
	lab := newSplitLab(t)
	lab.openOwner()
	lab.apply(remoteSplit(1, 500_000))
	lab.router.Do(func() error {
		if _, err := ForceOff(t.Context(), labSettings, ""); !errors.Is(err, errOwned) {
			t.Errorf("beside a living owner: %v, want %v", err, errOwned)
		}
		if err := lab.kernel.Close(); err != nil {
			return err
		}
		if _, err := ForceOff(t.Context(), labSettings, ""); err != nil {
			t.Errorf("after its end: %v", err)
		}
		_, err := Cleanup(t.Context(), labSettings, true)
		return err
	})
}

// What is remembered of owned tables must not outlive the ownership: while it
// was broken they were anybody's.
func TestAFlushBetweenTwoOwnershipsIsSeenAndMended(t *testing.T) {
	lab := newSplitLab(t)
	lab.openOwner()
	split := remoteSplit(1, 500_000)
	lab.apply(split)
	if lines := lab.differences(split); len(lines) > 0 {
		t.Fatalf("differences after an apply: %q", lines)
	}
	lab.kernel.mu.Lock()
	lab.kernel.link.close()
	lab.kernel.mu.Unlock()
	lab.flushAsOthers()
	lab.router.Do(func() error {
		lab.kernel.mu.Lock()
		defer lab.kernel.mu.Unlock()
		lab.kernel.keepOwned()
		return nil
	})
	if lines := lab.differences(split); len(lines) == 0 {
		t.Error("nothing is said to be missing, but all was flushed")
	}
	if !lab.apply(split) {
		t.Error("an apply has put nothing back")
	}
	if lines := lab.differences(split); len(lines) > 0 || !lab.owned() {
		t.Errorf("put back: differences %q, owned %v", lines, lab.owned())
	}
}
