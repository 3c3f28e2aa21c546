package runner

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/shadow"
)

// What a candidate says beyond what the primary has said, and a flow may hold, is not
// read: a gigabyte of it would take a processor from the relay.
func TestACandidateThatFloodsIsReadNoFurtherAheadOfThePrimaryThanAFlowMayHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		var taken atomic.Int64
		r := start(t, &sink, func(o *Options) {
			o.Dial = candidate(func(c net.Conn) {
				for water := make([]byte, 16<<10); ; {
					n, err := c.Write(water)
					taken.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
		})
		tap := r.Open(Flow{})
		tap.Take(shadow.Client, []byte("one\n"), false, time.Now())
		within := func(least int64) {
			t.Helper()
			synctest.Wait()
			if n := taken.Load(); n < least || n > least+32<<10 {
				t.Errorf("%d bytes of it are taken, want %d and no more than two reads beyond", n, least)
			}
		}
		within(r.options.FlowBudget)
		tap.Take(shadow.Primary, make([]byte, 48<<10), false, time.Now())
		within(r.options.FlowBudget + 48<<10)
		time.Sleep(time.Minute)
		synctest.Wait()
		want(t, &sink, "one: candidate_error, timed out")
		if c := r.Counts(); c.Open != 0 || r.options.Budget.Used() != 0 {
			t.Errorf("afterwards: %+v, %d bytes", c, r.options.Budget.Used())
		}
	})
}
