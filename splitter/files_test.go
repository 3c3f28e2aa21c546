package splitter

import "testing"

func TestFlowsLeaveFileDescriptorsToTheRestOfTheProcess(t *testing.T) {
	for _, test := range []struct {
		limit, taken uint64
		want         int64
	}{
		{1_048_576, 20, 1_048_556 - filesKept},
		{1024, 24, 1000 - filesKept},
		{64, 24, 30},
		{20, 20, 0},
		{20, 30, 0},
		{^uint64(0), 0, 1<<31 - filesKept},
	} {
		if got := filesFor(test.limit, test.taken); got != test.want {
			t.Errorf("of %d descriptors, %d of them taken, flows may have %d, want %d", test.limit, test.taken, got, test.want)
		}
	}
}
