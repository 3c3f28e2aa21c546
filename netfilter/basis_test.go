package netfilter

import (
	"math"
	"testing"

	"github.com/google/nftables"

	"github.com/splitd/splitd/traffic"
)

// overtaking has another program's transaction come before that number of
// ours, from 0, each time that it is tried; tried counts all.
func overtaking(commit committer, tried *int, others func(trial int)) committer {
	return func(all []step) error {
		others(*tried)
		*tried++
		return commit(all)
	}
}

// otherProgram commits something of its own.
func otherProgram(t *testing.T, change func(c *nftables.Conn)) {
	t.Helper()
	conn, err := nftables.New()
	if err == nil {
		change(conn)
		err = conn.Flush()
	}
	if err != nil {
		t.Error(err)
	}
}

// The rules of a backend's chain go, so that who is drawn for it falls through.
func emptyCandidate(c *nftables.Conn) { empty(c, traffic.RoleCandidate, "new") }
func emptyPrimary(c *nftables.Conn)   { empty(c, traffic.RolePrimary, "old") }

func empty(c *nftables.Conn, role traffic.Role, backend string) {
	c.FlushChain(&nftables.Chain{Name: backendChain("mx", role, backend), Table: &nftables.Table{Name: TableSplits, Family: nftables.TableFamilyINet}})
}

// changeForeign concerns nobody.
func changeForeign(c *nftables.Conn) {
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "foreign"})
	c.AddChain(&nftables.Chain{Table: table, Name: "chain"})
	c.DelTable(table)
}

func TestWhatAnotherProgramChangesBetweenReadingAndWritingIsSeen(t *testing.T) {
	t.Parallel()
	moved := func() traffic.Split {
		s := remoteSplit(2, 600_000)
		s.Service.Ports = append(s.Service.Ports, traffic.Port{Number: 26, Transport: traffic.TCP})
		return s
	}
	weighed := func() traffic.Split { return remoteSplit(2, 600_000) }
	withdrawn := func() traffic.Split {
		s := remoteSplit(1, 300_000)
		s.Candidates[0].Down = down("2001:db8:2::12")
		return s
	}
	byApply := func(lab *splitLab, s traffic.Split) { lab.apply(s) }
	byWeights := func(lab *splitLab, s traffic.Split) { lab.setWeights(s) }
	for _, test := range []struct {
		name   string
		want   func() traffic.Split
		change func(lab *splitLab, s traffic.Split)
		others func(*nftables.Conn)
		before int // which of our transactions
	}{
		{"before a weight is prepared", weighed, byWeights, emptyCandidate, 0},
		{"before a weight is in force", weighed, byWeights, emptyCandidate, 1},
		{"before an apply", moved, byApply, emptyPrimary, 0},
		{"amid an apply", moved, byApply, emptyCandidate, 1},
		{"before backends are set", withdrawn, func(lab *splitLab, s traffic.Split) { lab.setBackends(s) }, emptyPrimary, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			lab := newSplitLab(t)
			lab.apply(remoteSplit(1, 300_000))
			want, tried := test.want(), 0
			lab.kernel.commit = overtaking(lab.kernel.change, &tried, func(trial int) {
				if trial == test.before {
					otherProgram(t, test.others)
				}
			})
			test.change(lab, want)
			if tried <= test.before {
				t.Fatalf("there were %d transactions", tried)
			}
			if lines := lab.differences(want); len(lines) > 0 {
				t.Errorf("the kernel differs: %q", lines)
			}
		})
	}
}

// Who changes the ruleset all the time must not keep a weight from changing.
func TestAFirewallThatNeverRestsKeepsNoChangeAway(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.apply(remoteSplit(1, 0))
	tried := 0
	lab.kernel.commit = overtaking(lab.kernel.change, &tried, func(int) { otherProgram(t, changeForeign) })
	lab.setWeights(remoteSplit(2, 600_000))
	if want := overtakenMost + 2; tried != want { // the first transaction each time, then both
		t.Errorf("%d transactions were tried, want %d", tried, want)
	}
	if lines := lab.differences(remoteSplit(2, 600_000)); len(lines) > 0 {
		t.Errorf("the kernel differs: %q", lines)
	}
}

func TestOwnedTablesAreChangedAtOnceWhateverOthersDo(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.openOwner()
	tried := 0
	lab.kernel.commit = overtaking(lab.kernel.change, &tried, func(int) { otherProgram(t, changeForeign) })
	lab.apply(remoteSplit(1, 300_000))
	first := tried
	lab.setWeights(remoteSplit(2, 600_000))
	if got := tried - first; got != 2 {
		t.Errorf("a weight took %d transactions, want 2", got)
	}
	if lines := lab.differences(remoteSplit(2, 600_000)); len(lines) > 0 {
		t.Errorf("the kernel differs: %q", lines)
	}
}

func TestAMirrorIsMadeOnWhatWasRead(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	split := mirrored(both(localSplit(1, 0)), "10.0.3.40", traffic.Whole)
	tried := 0
	commit := overtaking(lab.kernel.change, &tried, func(trial int) {
		if trial == 0 { // the same table comes from elsewhere, with another chain
			otherProgram(t, func(c *nftables.Conn) {
				table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: TableMirror})
				c.AddChain(&nftables.Chain{Table: table, Name: "stray"})
			})
		}
	})
	lab.router.Do(func() error {
		_, err := lab.kernel.link.applyWhole(commit, mirrors([]traffic.Split{split})...)
		return err
	})
	if tried != 2 {
		t.Errorf("%d transactions, want one that is refused and one that is not", tried)
	}
}

// markingLab is a lab with what return paths by mark are to be there.
func markingLab(t *testing.T) (returnLab, Returns) {
	t.Helper()
	returns, err := buildRouting(nil, byMark(), labSettings)
	if err != nil {
		t.Fatal(err)
	}
	return newReturnLab(t), returns
}

func TestTheMarkingTableIsMadeOnWhatWasRead(t *testing.T) {
	t.Parallel()
	lab, returns := markingLab(t)
	tried := 0
	lab.host.Do(func() error {
		conn := mustConn(t)
		var b basis
		return b.undisturbed(func() (uint32, error) { return generation(conn) }, func() error {
			if tried++; tried == 1 {
				otherProgram(t, changeForeign)
			}
			_, _, err := returns.bringMarks(conn, &b, nil)
			return err
		})
	})
	if m := lab.readMarks(); tried != 2 || len(m.chains) == 0 {
		t.Errorf("after %d attempts, want 2, there are the chains %v", tried, m.chains)
	}
}

func TestAnUnreachableDaemonsSplitsAreTurnedOffOnWhatWasRead(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.apply(remoteSplit(1, 300_000))
	var done []Forced
	tried := 0
	lab.router.Do(func() error {
		var l link
		defer l.close()
		return l.undisturbed(func() (err error) {
			if tried++; tried == 1 {
				otherProgram(t, changeForeign)
			}
			done, err = l.forceOff("")
			return err
		})
	})
	if tried != 2 || len(done) != 1 || done[0].PreviousPPM != 300_000 || lab.read()["mx"].Weights["new"] != 0 {
		t.Errorf("after %d attempts: %+v", tried, done)
	}
}

func TestWhatASecondAttemptFoundOffIsToldAsTheFirstDidIt(t *testing.T) {
	before := []Forced{{Split: "a", Generation: 5, PreviousPPM: 50_000}, {Split: "b", Generation: 9, PreviousPPM: 10_000}}
	after := forcedBefore(before, []Forced{{Split: "a", Generation: 5}, {Split: "b", Generation: 10, PreviousPPM: 20_000}})
	if after[0].PreviousPPM != 50_000 || after[1].PreviousPPM != 20_000 {
		t.Errorf("told: %+v", after)
	}
}

func TestTheGenerationOfARulesetIsNeverZero(t *testing.T) {
	for now, want := range map[uint32]uint32{1: 2, math.MaxUint32 - 1: math.MaxUint32, math.MaxUint32: 1} {
		if got := following(now); got != want {
			t.Errorf("following(%d) = %d, want %d", now, got, want)
		}
	}
}

func TestMarkingRulesThatAreMendedAloneNeedOneAttempt(t *testing.T) {
	t.Parallel()
	lab, returns := markingLab(t)
	tried := 0
	lab.host.Do(func() error {
		if _, _, err := returns.applyMarks(mustConn(t), nil); err != nil {
			return err
		}
		otherProgram(t, func(c *nftables.Conn) { // the sets and chains stay
			c.FlushChain(&nftables.Chain{Name: returns.chains()[0].name, Table: markTable()})
		})
		conn := mustConn(t)
		var b basis
		return b.undisturbed(func() (uint32, error) { return generation(conn) }, func() error {
			tried++
			_, _, err := returns.bringMarks(conn, &b, nil)
			return err
		})
	})
	if m := lab.readMarks(); tried != 1 || len(m.rules[returns.chains()[0].name]) == 0 {
		t.Errorf("after %d attempts, want 1, there are the rules %v", tried, m.rules)
	}
}

// mustConn is a connection to the namespace of the calling thread.
func mustConn(t *testing.T) *nftables.Conn {
	t.Helper()
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseLasting() })
	return conn
}

func TestWeightsThatWereOvertakenHalfwayLeaveNoOldVersions(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	splits := manySplits(fewSplits+20, 50_000)
	lab.apply(splits...)
	lab.setWeights(splits[0])   // opens the socket
	lab.kernel.link.room = 2000 // so that there are several transactions
	tried := 0
	lab.kernel.commit = overtaking(lab.kernel.change, &tried, func(trial int) {
		if trial == 2 {
			otherProgram(t, changeForeign)
		}
	})
	for i := range splits {
		splits[i] = remoteOff(splits[i])
	}
	lab.setWeights(splits...)
	lab.clock.advance(2 * retireAfter)
	lab.kernel.mu.Lock()
	lab.router.Do(func() error { lab.kernel.retire(); return nil })
	lab.kernel.mu.Unlock()
	var left []string
	lab.router.Do(func() error {
		have, err := lab.kernel.link.observe(everything)
		for _, o := range have {
			for name := range o.chains {
				if _, _, version := versionOf(name); version {
					left = append(left, name)
				}
			}
		}
		return err
	})
	if tried < 4 || len(left) > 0 {
		t.Errorf("after %d transactions these are left: %q", tried, left)
	}
}

func remoteOff(s traffic.Split) traffic.Split {
	s.Generation++
	s.Candidates = []traffic.Backend{s.Candidates[0]}
	s.Candidates[0].Weight = 0
	return s
}
