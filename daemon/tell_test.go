package daemon

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestARaiseSaysWhatTheHostCheckWarnsOf(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.kernel.warns = []string{"beware"}
	var log bytes.Buffer
	d.log = slog.New(slog.NewTextHandler(&log, nil))
	d.told = map[string]bool{} // the start's
	for _, p := range []int{5, 10} {
		change, err := w.set(d, percent(p))
		if err != nil || !slices.Equal(change.Warnings, []string{"beware"}) {
			t.Errorf("set %d%% = %q, %v, want the host's warning and no note", p, change.Warnings, err)
		}
	}
	if n := strings.Count(log.String(), "beware"); n != 1 {
		t.Errorf("the log has the warning %d times, want once:\n%s", n, &log)
	}
	if change, err := w.set(d, percent(1)); err != nil || len(change.Warnings) > 0 {
		t.Errorf("a lowering = %q, %v, want no warning", change.Warnings, err)
	}
}

func TestStatusCountsWarningsAndNotesApart(t *testing.T) {
	for _, tt := range []struct {
		warnings []string
		notes    int
		want     string
	}{
		{nil, 1, "about this host `splitctl plan` has 1 note"},
		{nil, 2, "about this host `splitctl plan` has 2 notes"},
		{[]string{"beware"}, 0, "about this host: beware"},
		{[]string{"beware", "more"}, 0, "about this host `splitctl plan` has 2 warnings, the first: beware"},
		{[]string{"beware"}, 2, "about this host `splitctl plan` has 1 warning and 2 notes, the first: beware"},
	} {
		if got := aboutHost(tt.warnings, tt.notes); got != tt.want {
			t.Errorf("%q and %d notes: %q, want %q", tt.warnings, tt.notes, got, tt.want)
		}
	}
}
