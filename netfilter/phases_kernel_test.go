package netfilter

import (
	"slices"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// Both splits keep the clients of the lab from the candidate: one has them in a
// group that never goes there, among thousands of other networks, the other has
// weight 0. Each change between them is made under connections.
func TestClientsLeaveAGroupAsTheWeightChanges(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	for _, tc := range []struct {
		about   string
		others  int // networks of other clients in the group
		staying bool
		room    int
	}{
		{"the others go too, in small transactions", 3000, false, roomMin},
		{"the others stay", 20_000, true, roomMax},
	} {
		full, none := remoteSplit(1, traffic.Whole), remoteSplit(1, 0)
		others := parts("198.0.0.0/7", 32, tc.others)
		full.Candidates[0].Clients.Never = append(prefixes("192.0.2.0/24"), others...)
		none.Candidates[0].Clients.Never = parts("198.0.0.0/7", 32, 1)
		if tc.staying {
			none.Candidates[0].Clients.Never = others
		}
		lab.kernel.link.room = tc.room
		lab.apply(full)
		stop, done := make(chan struct{}), make(chan answers, 1)
		go func() { done <- lab.load(0, stop, service25v4) }()
		for i := range max(1, load(4)) {
			for j, split := range []traffic.Split{none, full} {
				split.Generation = traffic.Generation(2*i + j + 2)
				if !lab.apply(split) {
					t.Errorf("%s: nothing changed", tc.about)
				}
			}
		}
		close(stop)
		got := <-done
		if len(got.failed) > 0 || got.by[fromNew] > 0 || got.by[fromOld] == 0 {
			t.Errorf("%s: answers %v, %d failed, want all from the primary; the first failure: %v", tc.about, got.by, len(got.failed), slices.Concat(got.failed, []error{nil})[0])
		}
		t.Logf("%s: %d connections", tc.about, got.by[fromOld])
	}
}
