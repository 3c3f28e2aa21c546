package main

import (
	"context"
	"time"
)

// changeEvery is how often weights change under new connections: 100 times a
// second.
const changeEvery = 10 * time.Millisecond

// flowsUnderChanges opens connections while the weight changes, where that can
// be done without a restart.
func (m *measuring) flowsUnderChanges(ctx context.Context, w *way, a *account) error {
	if w.program == nil || w.program.set == nil {
		return nil
	}
	changing, stop := context.WithCancel(ctx)
	began := time.Now()
	made, failed := make(chan int, 1), make(chan error, 1)
	go func() {
		n, err := changeOften(changing, w.program.set)
		made <- n
		failed <- err
	}()
	_, rate, err := m.connect(w)
	stop()
	n, took := <-made, time.Since(began)
	if changeErr := <-failed; err == nil {
		err = changeErr
	}
	if err != nil {
		return err
	}
	a.add(changedFlows, rate)
	a.add(changesMade, float64(n)/took.Seconds())
	return nil
}

// changeOften changes the weight until ctx ends, and says how often it did. A
// change that takes longer has the next ones come later.
func changeOften(ctx context.Context, set func(ctx context.Context, percent int) error) (int, error) {
	tick := time.NewTicker(changeEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		// A change that has begun is waited for: none is cut off half way.
		if err := set(context.WithoutCancel(ctx), []int{45, 55}[n%2]); err != nil {
			return n, err
		}
		select {
		case <-ctx.Done():
			return n, nil
		case <-tick.C:
		}
	}
}
