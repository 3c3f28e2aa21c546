package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/splitd/splitd/traffic"
)

// behind are the splits that have moved from the kernel to the relay while this
// process ran, and may have left flows there: conntrack goes on to carry those,
// and they are found by what the split was then. It may be used by many
// goroutines.
type behind struct {
	mu    sync.Mutex
	moves uint64 // counts them
	left  map[string]leaving
}

// leaving is what a split was in the kernel, each time that it left it.
type leaving struct {
	definitions []traffic.Split // the newest first
	move        uint64          // the newest
}

// moved notes an apply that has worked.
func (b *behind) moved(wereInKernel, inProxy []traffic.Split) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == nil {
		b.left = map[string]leaving{}
	}
	for _, s := range moved(wereInKernel, inProxy) {
		b.moves++
		others := slices.DeleteFunc(slices.Clone(b.left[s.Name].definitions), func(o traffic.Split) bool { return leadAlike(o, s) })
		b.left[s.Name] = leaving{slices.Insert(others, 0, s), b.moves}
	}
}

// leadAlike says whether the same flows are found by two definitions of a split.
func leadAlike(a, b traffic.Split) bool {
	return slices.Equal(a.Service.Addresses, b.Service.Addresses) && slices.Equal(a.Service.Ports, b.Service.Ports) &&
		slices.EqualFunc(a.Backends(), b.Backends(), func(x, y traffic.Backend) bool {
			return x.Name == y.Name && x.Local == y.Local && slices.Equal(x.Addresses, y.Addresses)
		})
}

// of are the definitions by which those of the splits that the relay has now may
// have left some. What the kernel has it knows by itself.
func (b *behind) of(splits []traffic.Split) []traffic.Split {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.left) == 0 {
		return nil
	}
	var left []traffic.Split
	for _, s := range splits {
		if s.Mode == traffic.ModeProxy {
			left = append(left, b.left[s.Name].definitions...)
		}
	}
	return left
}

// latest is the newest move, for over.
func (b *behind) latest() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.moves
}

// over notes that nothing was left of a split by a look that began after that
// move: it may have moved again since.
func (b *behind) over(split string, move uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left[split].move <= move {
		delete(b.left, split)
	}
}

// addBehind adds to the counts what splits of the relay have open in the kernel
// from before. Conntrack is listed for it, until none is left.
func (p *planes) addBehind(ctx context.Context, kernel Kernel, splits []traffic.Split, counts map[traffic.BackendKey]traffic.Counts) error {
	move := p.behind.latest()
	left := p.behind.of(splits)
	if len(left) == 0 {
		return nil
	}
	open, err := kernel.Left(ctx, left)
	if err != nil {
		return fmt.Errorf("count flows from before their split moved to the relay: %w", err)
	}
	some := map[string]bool{}
	for key, active := range open {
		some[key.Split] = true
		c := counts[key]
		if c.Active != nil {
			active += *c.Active
		}
		c.Active = &active
		counts[key] = c
	}
	for _, s := range left {
		if !some[s.Name] {
			p.behind.over(s.Name, move)
		}
	}
	return nil
}
