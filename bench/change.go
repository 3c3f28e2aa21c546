package main

import (
	"context"
	"slices"
	"time"

	"github.com/splitd/splitd/traffic"
)

// change is how long operations took among n splits.
type change struct {
	splits int
	load   time.Duration
	again  time.Duration // Apply of what is there already
	set    times
	read   time.Duration // Differences and Counts, as a status needs them
}

// changes takes the ways in turns, so that all have the same neighbours.
func changes(ctx context.Context, ways []*kernelWay, sets int) ([]change, error) {
	all := make([]change, len(ways))
	for i, k := range ways {
		all[i].splits, all[i].load = len(k.splits), k.loaded
	}
	for turn := range sets {
		for i, k := range ways {
			err := k.router.Do(func() error {
				took, err := each(1, func(int) error { return k.flip(ctx, traffic.Weight(turn)) })
				all[i].set = append(all[i].set, took...)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
	}
	for i, k := range ways {
		err := k.router.Do(func() error {
			took, err := each(1, func(int) error { _, err := k.plane.Apply(ctx, k.splits, nil); return err })
			if err != nil {
				return err
			}
			all[i].again = took[0]
			took, err = each(1, func(int) error {
				if _, err := k.plane.Differences(ctx, k.splits, nil); err != nil {
					return err
				}
				_, err := k.plane.Counts(ctx, k.splits)
				return err
			})
			if err == nil {
				all[i].read = took[0]
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// flip gives the last split half of the flows and so many millionths more. The
// version before the last one is due for removal: it is removed too.
func (k *kernelWay) flip(ctx context.Context, more traffic.Weight) error {
	k.clock.now = k.clock.now.Add(2 * time.Second)
	return k.set(ctx, half+more)
}

func (k *kernelWay) set(ctx context.Context, weight traffic.Weight) error {
	s := &k.splits[len(k.splits)-1]
	s.Generation++
	s.Candidates = slices.Clone(s.Candidates)
	s.Candidates[0].Weight = weight
	return k.plane.SetWeights(ctx, *s)
}
