//go:build soak

package soak

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/control/api"
)

// every does something at a pace until ctx ends.
func every(ctx context.Context, pace time.Duration, do func(turn int)) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(turn)
		}
	}
}

// operate is what operators do all the time: weights, looks, reloads.
func (l *lab) operate(ctx context.Context, t *testing.T, load *load) {
	weights := []int{0, 50_000, 500_000, 1_000_000, 250_000}
	load.clients.Go(func() {
		splits := []string{"relayed", "routed", "asked", "headed", "seen"}
		every(ctx, 150*time.Millisecond, func(turn int) {
			split, weight := splits[turn%len(splits)], weights[turn/len(splits)%len(weights)]
			_, err := l.control.Set(context.WithoutCancel(ctx), split, api.SetRequest{WeightPPM: &weight})
			if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.CodeConflict {
				return // with a reload: the next turn is another try
			}
			if err != nil {
				t.Errorf("set the weight of %q: %v", split, err)
			}
		})
	})
	load.clients.Go(func() {
		every(ctx, time.Second, func(int) {
			if _, err := l.control.Splits(context.WithoutCancel(ctx), ""); err != nil {
				t.Errorf("read the status: %v", err)
			}
		})
	})
	load.clients.Go(func() {
		every(ctx, 2*time.Second, func(turn int) {
			more := []string{visiting, ""}[turn%2]
			if err := errors.Join(l.configure(more), l.daemon.Process.Signal(unix.SIGHUP)); err != nil {
				t.Errorf("reload: %v", err)
			}
		})
	})
}

// fail has the candidate of relayed and asked refuse, drop SYNs and restart in
// turns; at last it is up.
func (l *lab) fail(ctx context.Context, load *load) {
	load.clients.Go(func() {
		c := l.candidate
		defer c.become(c.up)
		states := []func(string) (func(), error){c.refusing, c.up, c.blackholed, c.up, c.up}
		every(ctx, 1500*time.Millisecond, func(turn int) { c.become(states[turn%len(states)]) })
	})
}
