package netfilter

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// errKernel is what the kernel answers a transaction that has no room.
var errKernel = fmt.Errorf("netlink receive: %w", unix.ENOBUFS)

// refusing lets so many transactions through and refuses the next one, of
// which the kernel then does nothing.
func refusing(commit committer, after int) committer {
	return func(operations []step) error {
		if after--; after == -1 {
			return errKernel
		}
		return commit(operations)
	}
}

// faultyChange is from one state of the splits to another; each sends all flows of
// port 25 to one server.
type faultyChange struct {
	name         string
	before, want func(generation traffic.Generation) []traffic.Split
	from, to     byte // who answers
	weights      bool // by SetWeights
	least        int  // so many transactions it takes
}

func faultyChanges() []faultyChange {
	one := func(change func(*traffic.Split)) func(traffic.Generation) []traffic.Split {
		return func(generation traffic.Generation) []traffic.Split {
			s := remoteSplit(generation, traffic.Whole)
			change(&s)
			return []traffic.Split{s}
		}
	}
	plain := one(func(*traffic.Split) {})
	off := one(func(s *traffic.Split) { s.Candidates[0].Weight = 0 })
	moved := one(func(s *traffic.Split) {
		s.Candidates[0].Addresses = addresses("10.0.2.12:2525", "[2001:db8:2::12]:2525")
		s.Service.Ports = append(s.Service.Ports, traffic.Port{Number: 26, Transport: traffic.TCP})
	})
	renamed := one(func(s *traffic.Split) { s.Name, s.Primary = "another", s.Candidates[0]; s.Candidates[0].Name = "x" })
	crowd := func(generation traffic.Generation) []traffic.Split {
		return append(manySplits(3, 40_000), off(generation)...)
	}
	return []faultyChange{
		{name: "a weight by SetWeights", before: off, want: plain, from: fromOld, to: fromNew, weights: true, least: 2},
		{name: "a weight by Apply", before: plain, want: off, from: fromNew, to: fromOld, least: 1},
		{name: "another address and another port", before: off, want: moved, from: fromOld, to: fromNew, least: 2},
		{name: "a service that moves to another split", before: off, want: renamed, from: fromOld, to: fromNew, least: 2},
		{name: "many splits in many transactions", before: plain, want: crowd, from: fromNew, to: fromOld, least: 4},
		{name: "many splits that go", before: crowd, want: plain, from: fromOld, to: fromNew, least: 3},
	}
}

// TestAnErrorAtAnyTransactionLeavesOneStateInForceAndSaysWhich has the kernel
// refuse each transaction of each change in turn.
func TestAnErrorAtAnyTransactionLeavesOneStateInForceAndSaysWhich(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.kernel.link.room = 4 << 10 // so that it takes many
	for _, change := range faultyChanges() {
		t.Run(change.name, func(t *testing.T) {
			generation, at := traffic.Generation(1), 0
			for ; ; at++ {
				lab.apply(change.before(generation)...)
				want := change.want(generation + 1)
				if !lab.refused(t, change, want, at) {
					break
				}
				lab.apply(want...)
				if got := lab.load(4, nil, service25v4, service25v6); got.by[change.to] != 4 {
					t.Errorf("transaction %d refused and all applied again: answers %v", at+1, got)
				}
				if lines := lab.differences(want...); len(lines) > 0 {
					t.Errorf("transaction %d refused and all applied again: %q", at+1, lines)
				}
				generation += 2
			}
			if at < change.least {
				t.Errorf("%d transactions could be refused, want %d at least", at, change.least)
			}
			t.Logf("%d transactions were refused in turn", at)
		})
	}
}

// refused makes the change with its transaction number at refused; it returns
// false when the change has no such transaction.
func (lab *splitLab) refused(t *testing.T, change faultyChange, want []traffic.Split, at int) bool {
	t.Helper()
	before := lab.read()
	lab.kernel.commit = refusing(lab.kernel.link.commit, at)
	defer func() { lab.kernel.commit = lab.kernel.link.commit }()
	var failed error
	lab.router.Do(func() error {
		if change.weights {
			failed = lab.kernel.SetWeights(t.Context(), want...)
		} else {
			failed = applyError(lab.kernel, want)
		}
		return nil
	})
	if failed == nil {
		return false
	}
	if !errors.Is(failed, unix.ENOBUFS) {
		t.Fatalf("transaction %d refused: the error is %v", at+1, failed)
	}
	got := lab.load(4, nil, service25v4, service25v6)
	if len(got.failed) > 0 || got.by[change.from]+got.by[change.to] != 4 {
		t.Errorf("transaction %d refused: answers %v", at+1, got)
	}
	old := cmp.Equal(before, lab.read())
	switch says := failed.Error(); {
	case strings.HasSuffix(says, "before stay in force"):
		if !old || got.by[change.from] != 4 {
			t.Errorf("transaction %d refused: %q, but the state is another: old %v, answers %v", at+1, says, old, got)
		}
	case strings.HasSuffix(says, "the transactions before it are in force, apply again") && at > 0:
	default:
		t.Errorf("transaction %d refused: %q does not say what is in force", at+1, says)
	}
	return true
}
