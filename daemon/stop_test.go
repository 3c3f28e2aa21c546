package daemon

import (
	"testing"
	"time"

	"github.com/splitd/splitd/traffic"
)

func TestSystemdIsAskedForTheTimeThatFlowsOfTheRelayMayTake(t *testing.T) {
	split := func(mode traffic.Mode, timeout time.Duration) traffic.Split {
		return traffic.Split{Mode: mode, Proxy: traffic.Proxy{DrainTimeout: timeout}}
	}
	for want, splits := range map[string][]traffic.Split{
		"EXTEND_TIMEOUT_USEC=5000000":        {split(traffic.ModeKernel, time.Hour)},
		"EXTEND_TIMEOUT_USEC=605000000":      {split(traffic.ModeProxy, time.Minute), split(traffic.ModeProxy, 10*time.Minute)},
		"EXTEND_TIMEOUT_USEC=31536005000000": {split(traffic.ModeProxy, 0), split(traffic.ModeProxy, time.Minute)},
	} {
		if got := extension(splits); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
