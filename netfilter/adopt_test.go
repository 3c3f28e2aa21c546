package netfilter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/traffic"
)

var errCrash = errors.New("the process died")

// crashing lets so many transactions through and then fails: before the
// kernel got the next one, or after.
func crashing(commit committer, after int, late bool) committer {
	return func(operations []step) error {
		after--
		if after >= 0 {
			return commit(operations)
		}
		if late && after == -1 {
			if err := commit(operations); err != nil {
				return err
			}
		}
		return errCrash
	}
}

// Whatever a process was doing when it died, its successor finds the old or
// the new weights in force and gets to the new ones without a flush.
func TestAProcessThatDiesBetweenTransactionsIsSucceeded(t *testing.T) {
	before := []traffic.Split{remoteSplit(1, 300_000)}
	after := remoteSplit(2, 700_000)
	after.Candidates[0].Addresses = addresses("10.0.2.12:2525", "[2001:db8:2::12]:2525")
	after.Service.Ports = append(after.Service.Ports, traffic.Port{Number: 26, Transport: traffic.TCP})
	more := localSplit(1, 1)
	more.Name = "more"
	more.Service.Ports = []traffic.Port{{Number: 27, Transport: traffic.TCP}}
	weights := remoteSplit(2, 700_000)
	for _, tc := range []struct {
		name         string
		before, want []traffic.Split
		act          func(k *Kernel) error
	}{
		{"the first apply", nil, before, func(k *Kernel) error { return applyError(k, before) }},
		{"another definition", before, []traffic.Split{after, more}, func(k *Kernel) error { return applyError(k, []traffic.Split{after, more}) }},
		{"another weight", before, []traffic.Split{weights}, func(k *Kernel) error { return k.SetWeights(t.Context(), weights) }},
	} {
		for _, late := range []bool{false, true} {
			for step := 0; ; step++ {
				name := fmt.Sprintf("%s, transaction %d, late %t", tc.name, step+1, late)
				if !diesAndIsSucceeded(t, name, tc.before, tc.want, tc.act, step, late) {
					break
				}
			}
		}
	}
}

func applyError(k *Kernel, splits []traffic.Split) error {
	_, err := k.Apply(context.Background(), splits, nil)
	return err
}

// diesAndIsSucceeded is false when the step is behind the last transaction.
func diesAndIsSucceeded(t *testing.T, name string, before, want []traffic.Split, act func(*Kernel) error, step int, late bool) bool {
	t.Helper()
	ns, err := netns.New("router")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	died := true
	err = ns.Do(func() error {
		k, err := Open(Options{Settings: labSettings, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		defer func() { _ = k.Close() }()
		if err := applyError(k, before); err != nil {
			return err
		}
		k.commit = crashing(k.link.commit, step, late)
		if err := act(k); !errors.Is(err, errCrash) {
			died = false
			return err
		}
		k.turn.end() // the one thing of a dead process that others see
		successor, err := Open(Options{Settings: labSettings, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		defer func() { _ = successor.Close() }()
		if err := oldOrNew(successor, before, want); err != nil {
			return err
		}
		if err := applyError(successor, want); err != nil {
			return fmt.Errorf("the successor applies: %w", err)
		}
		lines, err := successor.Differences(t.Context(), want, nil)
		if len(lines) > 0 {
			return fmt.Errorf("differences after the successor's apply: %q", lines)
		}
		return err
	})
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return died
}

func oldOrNew(k *Kernel, before, want []traffic.Split) error {
	states, err := k.Read(context.Background())
	if err != nil {
		return err
	}
	got, ok := states["mx"]
	if !ok && len(before) == 0 || cmp.Equal(got, stateOf(want[0])) || len(before) > 0 && cmp.Equal(got, stateOf(before[0])) {
		return nil
	}
	return fmt.Errorf("the kernel does neither the old nor the new: %v", got)
}

func stateOf(s traffic.Split) SplitState {
	return SplitState{Generation: s.Generation, Weights: s.Weights()}
}

func TestAnErrorInTheMiddleSaysThatTheRulesBeforeStay(t *testing.T) {
	lab := newSplitLab(t)
	lab.apply(remoteSplit(1, 300_000))
	lab.kernel.commit = crashing(lab.kernel.link.commit, 0, false)
	lab.router.Do(func() error {
		_, err := lab.kernel.Apply(t.Context(), []traffic.Split{remoteSplit(2, 1)}, nil)
		wantError(t, err, "apply splits to the kernel: transaction 1 of 2: the process died: the rules before stay in force")
		wantError(t, lab.kernel.SetWeights(t.Context(), remoteSplit(2, 1)),
			`set weights of split "mx" in the kernel: transaction 1 of 2: the process died: the weights before stay in force`)
		return nil
	})
	if diff := cmp.Diff(map[string]SplitState{"mx": {Generation: 1, Weights: map[string]traffic.Weight{"new": 300_000}}}, lab.read()); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error is\n%v, want\n%s", err, want)
	}
}

func TestWeightsOfASplitThatTheKernelLacksAreRefused(t *testing.T) {
	lab := newSplitLab(t)
	other := localSplit(2, 1)
	other.Candidates[0].Name = "newer"
	lab.router.Do(func() error {
		if err := lab.kernel.SetWeights(t.Context(), localSplit(1, 1)); !errors.Is(err, ErrNotInKernel) {
			t.Errorf("no table: %v", err)
		}
		if err := applyError(lab.kernel, []traffic.Split{localSplit(1, 1)}); err != nil {
			return err
		}
		if err := lab.kernel.SetWeights(t.Context(), other); !errors.Is(err, ErrNotInKernel) {
			t.Errorf("another backend: %v", err)
		}
		return nil
	})
	if lines := lab.differences(localSplit(1, 1)); len(lines) > 0 {
		t.Errorf("differences after refused weights: %q", lines)
	}
}

// nft changes the ruleset behind our back.
func (lab *splitLab) nft(change func(c *nftables.Conn, table *nftables.Table)) {
	lab.t.Helper()
	lab.router.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		change(conn, &nftables.Table{Name: TableSplits, Family: nftables.TableFamilyINet})
		return conn.Flush()
	})
}

func TestWhatOthersDidToOurTableIsToldAndMended(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	splits := []traffic.Split{remoteSplit(3, 50_000)}
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	chain := func(table *nftables.Table, name string) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: table}
	}
	for _, tc := range []struct {
		name   string
		change func(c *nftables.Conn, table *nftables.Table)
		want   []string
	}{
		{"the table is deleted", func(c *nftables.Conn, table *nftables.Table) { c.DelTable(table) }, []string{"table inet splitd is missing"}},
		{"a rule is added", func(c *nftables.Conn, table *nftables.Table) {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain(table, chainDispatch), Exprs: drop})
		}, []string{"chain dispatch has a rule that is not ours (handle N)"}},
		{"a rule is put into a version", func(c *nftables.Conn, table *nftables.Table) {
			c.InsertRule(&nftables.Rule{Table: table, Chain: chain(table, "split/mx/v1"), Exprs: drop})
		}, []string{"chain split/mx/v1 has a rule that is not ours (handle N)"}},
		{"a chain is emptied", func(c *nftables.Conn, table *nftables.Table) { c.FlushChain(chain(table, "split/mx/candidate/new")) }, []string{
			`chain split/mx/candidate/new lacks the rule: counter name "mx/new" ct mark set ct mark & 0x0fffffff | 0x08000000`,
			"chain split/mx/candidate/new lacks the rule: dnat ip to 10.0.2.12",
			"chain split/mx/candidate/new lacks the rule: dnat ip6 to 2001:db8:2::12",
		}},
		{"a trampoline is emptied", func(c *nftables.Conn, table *nftables.Table) { c.FlushChain(chain(table, "split/mx")) }, []string{
			`chain split/mx lacks the rule: goto split/mx/v2 comment "gen=3"`,
		}},
		{"a service is removed", func(c *nftables.Conn, table *nftables.Table) {
			_ = c.SetDeleteElements(&nftables.Set{Name: "service4", Table: table}, []nftables.SetElement{{Key: elements(splits[0])[0].removal().key}})
		}, []string{"service 192.0.2.25 . tcp . 25 is missing: split/mx is wanted"}},
		{"a chain is added", func(c *nftables.Conn, table *nftables.Table) {
			c.AddChain(chain(table, "mine"))
			c.AddRule(&nftables.Rule{Table: table, Chain: chain(table, "mine"), Exprs: drop})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain(table, "about"), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "mine"}}})
		}, []string{"chain about has a rule that is not ours (handle N)", "chain mine is not ours"}},
		{"the table is put to sleep", func(c *nftables.Conn, table *nftables.Table) {
			table.Flags = nftables.TableFlagDormant
			c.AddTable(table)
		}, []string{"table inet splitd is dormant"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab.cleanup(true)
			lab.apply(splits...)
			lab.nft(tc.change)
			lines := lab.differences(splits...)
			for i := range lines {
				lines[i] = regexp.MustCompile(`handle \d+`).ReplaceAllString(lines[i], "handle N")
			}
			if diff := cmp.Diff(tc.want, lines); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if !lab.apply(splits...) {
				t.Error("Apply says that nothing changed")
			}
			if lines := lab.differences(splits...); len(lines) > 0 {
				t.Errorf("differences after Apply: %q", lines)
			}
			if got := lab.load(200, nil, service25v4, service25v6); len(got.failed) > 0 || got.by[fromLocal] > 0 || got.by[fromOld] == 0 {
				t.Errorf("connections after Apply: %v", got)
			}
			lab.router.Do(func() error {
				kept, err := lab.kernel.link.hasTable(TableKeeper)
				if kept {
					t.Error("a keeper is left")
				}
				return err
			})
		})
	}
}

func TestWeightsThatDifferAreTold(t *testing.T) {
	lab := newSplitLab(t)
	lab.apply(remoteSplit(3, 50_000))
	want := []string{
		`split "mx": generation is 3, 4 is wanted`,
		`split "mx": weight of "new" is 5%, 10% is wanted`,
	}
	if diff := cmp.Diff(want, lab.differences(remoteSplit(4, 100_000))); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}
