package runner

import (
	"sync"
	"sync/atomic"
)

// A gate counts the shadows that run, and lets no more in than may. Nobody waits
// at it: relays ask it between two flows.
type gate struct {
	most  int64 // 0: any number
	count atomic.Int64
	once  sync.Once
	empty chan struct{} // closed when it is closed and the last has left
}

// closed is what the count is less by once the gate is closed.
const closed = 1 << 62

// What a gate answers.
type passage int

const (
	gateOpen passage = iota
	gateFull
	gateShut
)

// enter counts one more, who has to leave, unless there may be none.
func (g *gate) enter() passage { return g.enterBelow(g.most) }

// enterBelow is enter where so many may be in; 0 is any number.
func (g *gate) enterBelow(most int64) passage {
	n := g.count.Add(1)
	switch {
	case n <= 0:
		g.leave()
		return gateShut
	case most > 0 && n > most:
		g.leave()
		return gateFull
	}
	return gateOpen
}

func (g *gate) leave() {
	if g.count.Add(-1) == -closed {
		g.once.Do(func() { close(g.empty) })
	}
}

// close lets nobody in any more. Closing it again does nothing.
func (g *gate) close() {
	for {
		n := g.count.Load()
		if n < 0 {
			return
		}
		if !g.count.CompareAndSwap(n, n-closed) {
			continue
		}
		if n == 0 {
			g.once.Do(func() { close(g.empty) })
		}
		return
	}
}

// open is how many are in.
func (g *gate) open() int64 {
	n := g.count.Load()
	if n < 0 {
		n += closed
	}
	return n
}
