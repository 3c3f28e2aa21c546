package netfilter

import (
	"testing"
	"time"

	"github.com/splitd/splitd/traffic"
)

func (lab *splitLab) left(splits ...traffic.Split) uint64 {
	lab.t.Helper()
	var left map[traffic.BackendKey]uint64
	lab.router.Do(func() (err error) { left, err = lab.kernel.Left(lab.t.Context(), splits); return err })
	return left[traffic.BackendKey{Split: "mx", Backend: "new"}]
}

// elsewhere is mx in IPv4 alone with its candidate on the old host.
func elsewhere(g traffic.Generation) traffic.Split {
	s := remoteSplit(g, traffic.Whole)
	s.Service.Addresses = s.Service.Addresses[:1]
	s.Candidates[0].Addresses = addresses("10.0.1.11")
	s.Primary.Addresses = addresses("10.0.1.99")
	return s
}

// A split's flows outlive what they were begun by, and are found by that.
func TestFlowsThatASplitHasLeftAreFoundByWhatItWas(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	first, second := remoteSplit(1, traffic.Whole), elsewhere(2)
	lab.apply(first)
	for _, address := range []string{service25v4, service25v6} {
		lab.dial(address)
	}
	lab.apply(second)
	lab.dial(service25v4)
	lab.apply()
	for name, test := range map[string]struct {
		by   []traffic.Split
		want uint64
	}{
		"the first":  {[]traffic.Split{first}, 2},
		"the second": {[]traffic.Split{second}, 1},
		"both":       {[]traffic.Split{second, first}, 3},
	} {
		if got := lab.left(test.by...); got != test.want {
			t.Errorf("by %s %d flows of the candidate are left, want %d", name, got, test.want)
		}
	}
}

// A status page must not take a processor among a million entries.
func TestALongLookForFlowsThatWereLeftIsGoodForAWhile(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := remoteSplit(1, traffic.Whole)
	lab.apply(s)
	lab.dial(service25v4)
	lab.apply()
	if got := lab.left(s); got != 1 {
		t.Fatalf("%d flows are left, want 1", got)
	}
	lab.kernel.left.took = time.Hour
	lab.endFlows(lab.openFlows(Which{Splits: []traffic.Split{s}}))
	if got := lab.left(s); got != 1 {
		t.Errorf("after a look of an hour another one is taken at once: %d", got)
	}
	again := remoteSplit(2, traffic.Whole)
	if got := lab.left(again); got != 0 {
		t.Errorf("by another definition %d are left, want none", got)
	}
}
