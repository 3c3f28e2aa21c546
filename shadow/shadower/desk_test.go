package shadower

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow/ring"
	"github.com/splitd/splitd/shadow/runner"
)

// office is a desk in this process, and a ring that it reads.
type office struct {
	t      *testing.T
	desk   *desk
	inlet  *inlet
	outlet *outlet
}

func newOffice(t *testing.T) *office {
	t.Helper()
	const records = 128 << 10
	o, s, err := newOutlet(records, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	reader, err := ring.NewReader(s.memory, records, flagsOf)
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk(runner.NewBudget(1<<20), slog.New(slog.DiscardHandler))
	return &office{t, d, &inlet{reader: reader, desk: d, taps: map[uint32]*runner.Tap{}}, o}
}

// do has the desk do what it is asked for.
func (o *office) do(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

// read reads all that the ring has.
func (o *office) read() {
	o.t.Helper()
	for {
		r, ok, err := o.inlet.reader.Next()
		if err != nil {
			o.t.Fatal(err)
		}
		if !ok {
			return
		}
		o.do(o.inlet.heed(o.t.Context(), r))
	}
}

func TestFlowsThatAreStillInTheRingWhenTheirPlayEndsAreCounted(t *testing.T) {
	nobody := split(netip.MustParseAddrPort("127.0.0.1:1"))
	for name, test := range map[string]struct {
		end func(o *office)
		at  uint64 // the play that counts it
	}{
		"the sample becomes 0": {at: 1, end: func(o *office) { o.do(o.desk.Run(Running{1, 2}, nil)) }},
		"another run begins":   {at: 1, end: func(o *office) { o.do(o.desk.Run(Running{1, 3}, nil)) }},
		"another play follows": {at: 2, end: func(o *office) {
			o.do(o.desk.Make(Making{ID: 2, Line: 1, Split: nobody, After: 1}, nil))
			o.do(o.desk.Run(Running{2, 1}, nil))
			o.do(o.desk.Run(Running{1, 2}, nil))
			o.do(o.desk.End(1, nil))
			o.do(o.desk.Close(1, nil))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			o.do(o.desk.Make(Making{ID: 1, Line: 1, Split: nobody}, nil))
			o.do(o.desk.Run(Running{1, 1}, nil))
			var told atomic.Uint64
			slot, turn, how := o.outlet.open(opened(part{1, 1, 1}, flow), &told)
			if how != welcomed || told.Load() != 1 {
				t.Fatal("the flow finds no room")
			}
			test.end(o)
			o.read()
			var a Answer
			o.do(o.desk.Numbers(Asking{ID: test.at}, &a))
			if a.Numbers.Declined.Stopped != 1 || a.Numbers.Eligible != 1 || a.Numbers.Coverage["dropped"] != 1 {
				t.Errorf("the numbers are %+v", a.Numbers)
			}
			if !o.outlet.over(slot, turn) {
				t.Error("the relay goes on to tell of the flow")
			}
			var c Counted
			o.do(o.desk.Bytes(test.at, &c))
			if diff := cmp.Diff(uint64(1), c.Settled); diff != "" {
				t.Errorf("settled flows (-want +got):\n%s", diff)
			}
			o.do(o.desk.End(test.at, nil))
		})
	}
}

func TestFlowsThatWaitInVainForTheirPlayAreCountedWhenItIsMade(t *testing.T) {
	for name, made := range map[string]bool{"it is not made": false, "it does not run": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOffice(t)
				makes := func() {
					o.do(o.desk.Make(Making{ID: 1, Line: 1, Split: split(netip.MustParseAddrPort("127.0.0.1:1"))}, nil))
				}
				if made {
					makes()
				}
				if _, _, how := o.outlet.open(opened(part{1, 1, 1}, flow), new(atomic.Uint64)); how != welcomed {
					t.Fatal("the flow finds no room")
				}
				o.read()
				if !made {
					makes()
				}
				var a Answer
				o.do(o.desk.Numbers(Asking{ID: 1}, &a))
				if n := a.Numbers; n.Declined.Late != 1 || n.Eligible != 1 {
					t.Errorf("the numbers are %+v", n)
				}
			})
		})
	}
}
