package netfilter

import (
	"testing"

	"github.com/google/nftables"
)

func (lab *splitLab) othersNumber() (number uint32, certain bool) {
	lab.t.Helper()
	lab.router.Do(func() error { number, certain = lab.kernel.Others(); return nil })
	return number, certain
}

func TestOnlyOtherProgramsChangesCountAsTheirs(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.apply(remoteSplit(1, 0))
	before, certain := lab.othersNumber()
	lab.setWeights(remoteSplit(2, 500_000))
	lab.apply(remoteSplit(3, 0))
	if now, still := lab.othersNumber(); now != before || !certain || !still {
		t.Errorf("Others = %d after our own changes, want %d (certain: %v, %v)", now, before, certain, still)
	}
	lab.router.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "foreign"})
		return conn.Flush()
	})
	if now, _ := lab.othersNumber(); now == before {
		t.Errorf("Others = %d after another program's change, as before it", now)
	}
}
