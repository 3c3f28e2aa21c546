package main

import (
	"context"
	"fmt"
	"time"
)

// figures are what one way did, a value for each turn.
type figures struct {
	name                         string
	requests, flows, bits, worst []float64 // a second; worst is the p99 in seconds
	first                        []float64 // seconds until a connection stands
}

// measure takes all ways in turns: one slice of each, then the next turn, which
// begins with another way. The rate at which latency is measured is half of
// what the slowest way answers.
func (l *lab) measure(ctx context.Context, turns int, slice time.Duration, say func(string, ...any)) ([]figures, error) {
	all := make([]figures, len(l.ways))
	for i, w := range l.ways {
		all[i].name = w.name
		err := l.client.Do(func() (err error) {
			w.client, err = newClient(w.ends(portEcho, false))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("open connections of %q: %w", w.name, err)
		}
	}
	rate := 0.0
	for turn := range turns {
		say("turn %d of %d", turn+1, turns)
		for _, m := range []func(w *way, f *figures) error{
			func(w *way, f *figures) error { return note(&f.requests)(w.client.request(slice)) },
			func(w *way, f *figures) error { return note(&f.flows)(w.newFlows(slice)) },
			func(w *way, f *figures) error { return note(&f.first)(w.firstPacket(slice)) },
			func(w *way, f *figures) error {
				return note(&f.bits)(flood(w.ends(portFlood, false), floodsAtOnce, slice))
			},
			func(w *way, f *figures) error { return note(&f.worst)(w.p99(slice, rate)) },
		} {
			rate = slowest(all) / 2
			for i := range l.ways {
				at := (i + turn) % len(l.ways)
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				if err := l.client.Do(func() error { return m(l.ways[at], &all[at]) }); err != nil {
					return nil, fmt.Errorf("measure %q: %w", l.ways[at].name, err)
				}
			}
		}
	}
	return all, nil
}

func note(values *[]float64) func(float64, error) error {
	return func(v float64, err error) error {
		*values = append(*values, v)
		return err
	}
}

// slowest is the least median of requests a second.
func slowest(all []figures) float64 {
	least := 0.0
	for i, f := range all {
		if m := median(f.requests); i == 0 || m < least {
			least = m
		}
	}
	return least
}

func (w *way) newFlows(d time.Duration) (float64, error) {
	started := time.Now()
	t, err := openFlows(streams, w.ends(portGreet, false), started.Add(d), func() bool { return false })
	if err == nil && t.failed > 0 {
		err = fmt.Errorf("%d of %d connections failed: %w", t.failed, t.failed+t.answered(), t.why)
	}
	return float64(t.answered()) / time.Since(started).Seconds(), err
}

func (w *way) firstPacket(d time.Duration) (float64, error) {
	took, err := firstPackets(w.ends(portGreet, false), d)
	return quantile(took, 0.5).Seconds(), err
}

func (w *way) p99(d time.Duration, rate float64) (float64, error) {
	took, err := w.client.latency(d, rate)
	return quantile(took, 0.99).Seconds(), err
}
