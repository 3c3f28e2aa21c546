package netfilter

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// leftoversMost is how many may wait for retireLoop, so that a change of
// weights need not carry out a transaction for those before it, until changes
// come faster than that takes them away.
const leftoversMost = 200

// retireLoop removes what old weights, removed splits and relays left behind.
func (k *Kernel) retireLoop(ctx context.Context) error {
	var told bool
	ticker := time.NewTicker(retireAfter)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			k.mu.Lock()
			k.keepOwned()
			k.retire()
			err := k.retireLegs(ctx)
			k.mu.Unlock()
			if err != nil && !told && ctx.Err() == nil {
				k.options.Log.Warn("take away what transparent relays needed; tried again", "error", err)
			}
			told = err != nil
		}
	}
}

// retire removes the leftovers that no packet can be inside any more. Should
// one be in use after all, by a rule that another program added, or be gone
// already, they are forgotten: the next Apply that reads the table finds what
// is still there. k.mu is held.
func (k *Kernel) retire() {
	now := k.options.Now()
	var due []leftover
	for l, since := range k.leftovers {
		if now.Sub(since) >= retireAfter {
			due = append(due, l)
		}
	}
	if len(due) == 0 {
		return
	}
	slices.SortFunc(due, compareLeftovers)
	var groups [][]step
	for _, l := range due {
		delete(k.leftovers, l)
		groups = append(groups, l.removal())
	}
	for _, t := range transactions(groups, k.link.room) {
		if k.commit(t) == nil {
			continue
		}
		for _, o := range t {
			if err := k.commit([]step{o}); err != nil {
				k.options.Log.Debug("an old chain stays in the kernel until the next apply", "error", err)
			}
		}
	}
}

// compareLeftovers puts what leads somewhere before what it leads to.
func compareLeftovers(a, b leftover) int {
	return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.table, b.table), cmp.Compare(a.name, b.name))
}
