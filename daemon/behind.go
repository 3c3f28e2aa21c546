package daemon

import (
	"context"
	"fmt"
	"sync"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// behind are the splits that have moved from the kernel to the relay while this
// process ran, and may have left flows there: conntrack goes on to carry those.
// It may be used by many goroutines.
type behind struct {
	mu    sync.Mutex
	names map[string]bool
}

// moved notes an apply that has worked.
func (b *behind) moved(wereInKernel, inKernel, inProxy []traffic.Split) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.names == nil {
		b.names = map[string]bool{}
	}
	for _, s := range moved(wereInKernel, inProxy) {
		b.names[s.Name] = true
	}
	for _, s := range inKernel {
		delete(b.names, s.Name)
	}
}

// of are those of the splits that may have left some.
func (b *behind) of(splits []traffic.Split) []traffic.Split {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.names) == 0 {
		return nil
	}
	var left []traffic.Split
	for _, s := range splits {
		if b.names[s.Name] {
			left = append(left, s)
		}
	}
	return left
}

// over notes that all have ended of a split.
func (b *behind) over(split string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.names, split)
}

// addBehind adds to the counts what splits of the relay have open in the kernel
// from before. Conntrack is listed for it, until none is left.
func (p *planes) addBehind(ctx context.Context, kernel Kernel, splits []traffic.Split, counts map[traffic.BackendKey]traffic.Counts) error {
	left := p.behind.of(splits)
	if len(left) == 0 {
		return nil
	}
	flows, err := kernel.OpenFlows(ctx, netfilter.Which{Splits: left, Elsewhere: true})
	if err != nil {
		return fmt.Errorf("count flows from before their split moved to the relay: %w", err)
	}
	some := map[string]bool{}
	for _, f := range flows {
		some[f.Split] = true
		c := counts[f.BackendKey]
		active := uint64(1)
		if c.Active != nil {
			active += *c.Active
		}
		c.Active = &active
		counts[f.BackendKey] = c
	}
	for _, s := range left {
		if !some[s.Name] {
			p.behind.over(s.Name)
		}
	}
	return nil
}
