package netfilter

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/splitd/splitd/traffic"
)

// lookups are of splits that may have several definitions: each has one in a
// lookup of its own, the newest in the first.
type lookups []*lookup

func newLookups(splits []traffic.Split, settings Settings) lookups {
	var layers [][]traffic.Split
	before := make(map[string]int, len(splits))
	for _, s := range splits {
		i := before[s.Name]
		before[s.Name]++
		if i == len(layers) {
			layers = append(layers, nil)
		}
		layers[i] = append(layers[i], s)
	}
	all := make(lookups, 0, len(layers))
	for _, layer := range layers {
		all = append(all, newLookup(layer, settings))
	}
	return all
}

// find says where the flow belongs, by the newest definition that knows it.
func (all lookups) find(e *entry) (*lookup, home, bool) {
	for _, l := range all {
		if at, ok := l.find(e); ok {
			return l, at, true
		}
	}
	return nil, home{}, false
}

// left is the last count of flows whose split has left the kernel.
type left struct {
	mu     sync.Mutex // protects all below, and is held during a look
	splits []traffic.Split
	counts map[traffic.BackendKey]uint64
	at     time.Time
	took   time.Duration
}

// covers says whether it was taken of these definitions.
func (l *left) covers(splits []traffic.Split) bool {
	return slices.EqualFunc(l.splits, splits, func(a, b traffic.Split) bool { return a.Name == b.Name && a.Generation == b.Generation })
}

// Left counts the open flows that splits have left in conntrack when they went
// from the kernel, by what they were there: a split may have several definitions,
// the newest first. Flows that stay on this host are not among them. Conntrack is
// listed for it; a look that took long is good for a while, as that of Counts is.
func (k *Kernel) Left(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	last := &k.left
	last.mu.Lock()
	defer last.mu.Unlock()
	began := k.options.Now()
	if !last.covers(splits) || !fresh(last.at, last.took, began) {
		counts := map[traffic.BackendKey]uint64{}
		err := k.eachOpen(Which{Splits: splits, Elsewhere: true}, func(l *lookup, at home, _ *entry) { counts[l.key(at)]++ })
		if err != nil {
			return nil, fmt.Errorf("count flows that were left: %w", err)
		}
		last.splits, last.counts, last.at, last.took = splits, counts, began, k.options.Now().Sub(began)
	}
	return maps.Clone(last.counts), nil
}
