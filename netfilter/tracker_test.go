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

// An attempt that has just begun says nothing of its backend: neither while it
// is open, nor when it ends before an answer was due.
func TestAnAttemptIsOverdueOnceAnAnswerWasDue(t *testing.T) {
	split, start := remoteSplit(1, traffic.Whole), time.Unix(1000, 0)
	type moment struct {
		after            time.Duration
		gone, destroyed  bool
		answered         bool
		overdue, waiting uint64 // waiting: half open
	}
	due := traffic.AnswerDue
	for name, test := range map[string]struct {
		began   time.Duration // that the kernel tells, 0: it does not
		moments []moment
	}{
		"it waits":                    {0, []moment{{after: 0, waiting: 1}, {after: due - 1, waiting: 1}, {after: due, waiting: 1, overdue: 1}}},
		"it is given up":              {0, []moment{{after: 0, waiting: 1}, {after: due, waiting: 1, overdue: 1}, {after: due + 1, destroyed: true, overdue: 1}, {after: 2 * due, gone: true, overdue: 1}}},
		"it is freed at once":         {0, []moment{{after: 0, waiting: 1}, {after: due - 1, destroyed: true}, {after: 2 * due, gone: true}}},
		"it ends unheard":             {0, []moment{{after: 0, waiting: 1}, {after: due, gone: true}, {after: 2 * due, gone: true}}},
		"it is answered at last":      {0, []moment{{after: 0, waiting: 1}, {after: due, waiting: 1, overdue: 1}, {after: due + 1, answered: true}}},
		"the kernel tells its age":    {-due, []moment{{after: 0, waiting: 1, overdue: 1}}},
		"the kernel tells it is new":  {-due + 1, []moment{{after: 0, waiting: 1}}},
		"only its end was heard of":   {0, []moment{{after: 0, gone: true}, {after: 1, destroyed: true}}},
		"its end was heard, and when": {-due, []moment{{after: 0, gone: true}, {after: 1, destroyed: true, overdue: 1}}},
	} {
		tracker := newTracker()
		for i, m := range test.moments {
			e, now := flowOf("192.0.2.25:25", "10.0.2.12:25"), start.Add(m.after)
			e.id, e.status, e.tcpState = 1, 0, tcpSynSent
			if test.began != 0 {
				e.start = uint64(start.Add(test.began).UnixNano())
			}
			if m.answered {
				e.status, e.tcpState = statusSeenReply, tcpSynRecv
			}
			if m.destroyed {
				tracker.destroyed(e, now)
			} else {
				tracker.begin(newLookup([]traffic.Split{split}, labSettings))
				if !m.gone {
					tracker.see(e, now)
				}
				tracker.end(now, 0)
			}
			var got traffic.Evidence
			if all := tracker.evidence(); len(all) > 0 {
				got = all[0]
			}
			if got.HalfOpen != m.waiting || got.Overdue != m.overdue {
				t.Errorf("%s, at %d: half open %d and overdue %d, want %d and %d", name, i, got.HalfOpen, got.Overdue, m.waiting, m.overdue)
			}
		}
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
