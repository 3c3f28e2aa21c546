package runner

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/shadow"
)

// busy computes for a second with each event, and notes how many do so at once.
type busy struct{ now, most *atomic.Int64 }

func (b busy) Hear(e shadow.Event) shadow.Moves {
	if n := b.now.Add(1); n > b.most.Load() {
		b.most.Store(n)
	}
	time.Sleep(time.Second)
	b.now.Add(-1)
	return shadow.Moves{Done: e.End != shadow.Open}
}
func (busy) Held() int                                     { return 0 }
func (busy) Stop(shadow.Verdict, string) []shadow.Exchange { return nil }

func TestNoMoreShadowsComputeAtOnceThanThereAreTurns(t *testing.T) {
	for name, tt := range map[string]struct {
		turns func() Turns
		want  int64
	}{
		"one turn":  {func() Turns { return NewTurns(0) }, 1},
		"two turns": {func() Turns { return NewTurns(2) }, 2},
		"no bound":  {func() Turns { return nil }, 8},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := busy{new(atomic.Int64), new(atomic.Int64)}
				r := New(Options{
					Driver: func(shadow.Session) shadow.Driver { return b },
					Dial: func(ctx context.Context, _ Flow) (net.Conn, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					},
					Sink: &told{}, Budget: NewBudget(1 << 20), FlowBudget: 1 << 20, Patience: time.Hour, Turns: tt.turns(),
				})
				for range 8 {
					tap := r.Open(Flow{})
					began := time.Now()
					for range 3 {
						tap.Take(shadow.Client, []byte("x"), false, time.Now())
					}
					tap.End(shadow.Closed, time.Now())
					if waited := time.Since(began); waited != 0 {
						t.Errorf("the relay waited %s for a turn", waited)
					}
				}
				r.Close()
				if got := b.most.Load(); got != tt.want {
					t.Errorf("%d shadows computed at once, want %d", got, tt.want)
				}
			})
		})
	}
}
