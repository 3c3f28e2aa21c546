package daemon

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/splitd/splitd/traffic"
)

func TestSystemdIsAskedForTheTimeThatFlowsOfTheRelayMayTake(t *testing.T) {
	split := func(mode traffic.Mode, timeout time.Duration) traffic.Split {
		return traffic.Split{Name: "mx", Mode: mode, Proxy: traffic.Proxy{DrainTimeout: timeout}}
	}
	for want, splits := range map[string][]traffic.Split{
		"EXTEND_TIMEOUT_USEC=9000000":        {split(traffic.ModeKernel, time.Hour)},
		"EXTEND_TIMEOUT_USEC=609000000":      {split(traffic.ModeProxy, time.Minute), split(traffic.ModeProxy, 10*time.Minute)},
		"EXTEND_TIMEOUT_USEC=31536009000000": {split(traffic.ModeProxy, 0), split(traffic.ModeProxy, time.Minute)},
	} {
		if got := extension(drainTime(splits, &sampling{})); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	sampled := &sampling{ports: map[string]uint16{"mx": 61000}}
	if got, want := extension(drainTime([]traffic.Split{split(traffic.ModeKernel, time.Hour)}, sampled)), "EXTEND_TIMEOUT_USEC=3609000000"; got != want {
		t.Errorf("of a kernel's split that is sampled: %s, want %s", got, want)
	}
}

// The flows of the relay may drain for hours, while the tables are owned still:
// a load that names them fails.
func TestTheFileToIncludeNamesOwnedTablesOnlyWhenTheyAreGivenUp(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	d.options.Config.Control.Socket = filepath.Join(t.TempDir(), "splitd.sock")
	says := func(when, want string) {
		t.Helper()
		if text, err := os.ReadFile(includePath(d.options.Config)); err != nil || string(text) != want {
			t.Errorf("%s the file says %q, %v; want %q", when, text, err, want)
		}
	}
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := d.keepInclude(ctx, w.kernel); err != nil {
		t.Fatal(err)
	}
	says("while the daemon ends", "open tables")
	d.leaveInclude(t.Context())
	says("at its end", "all tables")
}
