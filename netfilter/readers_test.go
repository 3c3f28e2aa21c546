package netfilter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// reading is every way to ask the Kernel.
func reading(lab *splitLab, splits []traffic.Split) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"Read":        func(ctx context.Context) error { _, err := lab.kernel.Read(ctx); return err },
		"Counts":      func(ctx context.Context) error { _, err := lab.kernel.Counts(ctx, splits); return err },
		"Flows":       func(ctx context.Context) error { _, err := lab.kernel.Flows(ctx, splits[0]); return err },
		"Differences": func(ctx context.Context) error { _, err := lab.kernel.Differences(ctx, splits, nil); return err },
	}
}

// While the writer is at work, who asks is answered: neither waits for the
// other.
func TestReadersNeitherWaitForTheWriterNorUseItsSocket(t *testing.T) {
	lab := newSplitLab(t)
	splits := severalSplits(1, 10_000, 0)
	lab.apply(splits...)
	lab.kernel.mu.Lock()
	socket := lab.kernel.link.conn
	lab.kernel.link.conn = nil // who uses it panics or opens another
	for name, read := range reading(lab, splits) {
		done := make(chan error, 1)
		go func() { done <- lab.router.NS.Do(func() error { return read(t.Context()) }) }()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s waits for the writer", name)
		}
	}
	if lab.kernel.link.conn != nil {
		t.Error("a reader opened the writer's socket")
	}
	lab.kernel.link.conn = socket
	lab.kernel.mu.Unlock()
	lab.setWeights(severalSplits(2, 0, 0)...)
}

// What is read while the weights change all the time is the old or the new.
func TestReadersSeeWholeWeightsWhileTheyChange(t *testing.T) {
	lab := newSplitLab(t)
	weights := func(i int) []traffic.Split {
		w := []traffic.Weight{0, 250_000, traffic.Whole}[i%3]
		return severalSplits(traffic.Generation(i+1), w, w, w, w, w, w, w, w)
	}
	lab.apply(weights(0)...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var group sync.WaitGroup
	var looks [4]int
	for r := range looks {
		group.Go(func() {
			err := lab.router.NS.Do(func() error {
				for ; ctx.Err() == nil; looks[r]++ {
					states, err := lab.kernel.Read(t.Context())
					if err != nil {
						return err
					}
					if err := wholeWeights(states, weights); err != nil {
						return err
					}
					if _, err := lab.kernel.Counts(t.Context(), weights(0)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 40 {
		lab.setWeights(weights(i + 1)...)
		lab.clock.advance(retireAfter / 4)
	}
	stop()
	group.Wait()
	for r, n := range looks {
		if n == 0 {
			t.Errorf("reader %d never read anything", r)
		}
	}
}

func wholeWeights(states map[string]SplitState, weights func(i int) []traffic.Split) error {
	if len(states) == 0 {
		return errors.New("no split was read")
	}
	for _, s := range states {
		want := statesOf(weights(int(s.Generation - 1)))
		if diff := cmp.Diff(want, states); diff != "" {
			return fmt.Errorf("read a mixture (-want +got):\n%s", diff)
		}
	}
	return nil
}

func TestCountersAreToldWhenConntrackCannotBeListed(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	s := remoteSplit(1, traffic.Whole)
	lab.apply(s)
	lab.load(7, nil, service25v4)
	refused := errors.New("no such module")
	lab.kernel.dial = func() (*conntrackSocket, error) { return nil, refused }
	lab.router.Do(func() error {
		counts, err := lab.kernel.Counts(t.Context(), []traffic.Split{s, severalSplits(1, 5)[0]})
		if !errors.Is(err, refused) {
			t.Errorf("error is %v", err)
		}
		want := map[traffic.BackendKey]traffic.Counts{
			{Split: "mx", Backend: "new"}: {Flows: 7},
			{Split: "mx", Backend: "old"}: {Flows: 0},
		}
		if diff := cmp.Diff(want, counts); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
		all, err := lab.kernel.Flows(t.Context(), severalSplits(1, 5)[0])
		flows := all[severalSplits(1, 5)[0].Name]
		if diff := cmp.Diff(map[string]uint64{}, flows); diff != "" {
			t.Errorf("flows of a split that has no counters (-want +got):\n%s", diff)
		}
		return err
	})
}
