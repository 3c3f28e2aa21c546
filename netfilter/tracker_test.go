package netfilter

import (
	"testing"
	"time"

	"github.com/splitd/splitd/traffic"
)

// More flows than are remembered are open flows like others, and are not
// counted as new at each look.
func TestFlowsBeyondTheMemoryAreCountedOnceByTheirEnd(t *testing.T) {
	split := remoteSplit(1, traffic.Whole)
	tracker, now := newTracker(), time.Unix(1000, 0)
	tracker.most = 2
	flows := make([]*entry, 5)
	for i := range flows {
		flows[i] = flowOf("192.0.2.25:25", "10.0.2.12:25")
		flows[i].id, flows[i].counted, flows[i].in.bytes = uint32(i+1), true, 100
	}
	look := func(seen []*entry) {
		tracker.begin(newLookup([]traffic.Split{split}, labSettings))
		for _, e := range seen {
			tracker.see(e, now)
		}
		tracker.end(now, 0)
	}
	const looks = 3
	for range looks {
		look(flows)
	}
	if got := tracker.evidence()[0]; got.Active != 5 || got.Flows != 2 || got.Ended != 0 || *got.BytesIn != 200 {
		t.Errorf("5 are open and 2 remembered: active %d, flows %d, ended %d, bytes %d", got.Active, got.Flows, got.Ended, *got.BytesIn)
	}
	for _, e := range flows {
		tracker.destroyed(e, now)
	}
	look(nil)
	if got := tracker.evidence()[0]; got.Active != 0 || got.Flows != 5 || got.Ended != 5 || *got.BytesIn != 500 || len(tracker.known) > 0 {
		t.Errorf("all have ended: active %d, flows %d, ended %d, bytes %d, remembered %d", got.Active, got.Flows, got.Ended, *got.BytesIn, len(tracker.known))
	}
}

// What is remembered of the beginning of a flow goes with its end, though its
// split has gone before.
func TestNothingIsRememberedOfFlowsOfSplitsThatAreGone(t *testing.T) {
	now := time.Unix(1000, 0)
	splits := []traffic.Split{remoteSplit(1, traffic.Whole)}
	desk := newsDesk{
		k:       &Kernel{options: Options{Settings: labSettings, Now: func() time.Time { return now }}},
		current: func() []traffic.Split { return splits }, begun: map[uint64]time.Time{},
	}
	e := flowOf("192.0.2.25:25", "10.0.2.12:25")
	if _, told := desk.read(ctNew, e); !told || len(desk.begun) != 1 {
		t.Fatalf("the beginning: told %v, %d remembered", told, len(desk.begun))
	}
	splits, now = nil, now.Add(lookupLasts)
	if _, told := desk.read(ctDelete, e); told || len(desk.begun) != 0 {
		t.Errorf("the end: told %v, %d remembered", told, len(desk.begun))
	}
}

func TestALookThatTookLongIsGoodForAWhile(t *testing.T) {
	at := time.Unix(1000, 0)
	for _, test := range []struct {
		took, later time.Duration
		want        bool
	}{
		{0, 0, false},
		{20 * time.Millisecond, 0, false},
		{100 * time.Millisecond, 399 * time.Millisecond, true},
		{100 * time.Millisecond, 400 * time.Millisecond, false},
	} {
		if got := (&tracker{at: at, took: test.took}).fresh(at.Add(test.later)); got != test.want {
			t.Errorf("a look that took %v is good %v later: %v, want %v", test.took, test.later, got, test.want)
		}
	}
}
