package runner

import (
	"sync"
	"sync/atomic"
)

// overhead is what a queued chunk takes besides its bytes.
const overhead = 128

// connection is what a connection takes besides what is said in it, in bytes: what is read
// into, stacks, a driver. Measured with all protocols it is 34 to 38 thousand.
const connection = 36 << 10

// insideTLS is what a connection inside TLS takes besides, in bytes: a record, keys, the
// certificates that were shown, a deeper stack. Measured with chains of three it is 23 to 25
// thousand.
const insideTLS = 26 << 10

// A Budget bounds the memory of all shadows of a process together, in bytes, of
// both directions. It may be used from many goroutines.
type Budget struct {
	most int64
	used atomic.Int64

	mu     sync.Mutex
	newest *flow // of those that run, linked to the older ones
}

// NewBudget returns a budget of so many bytes.
func NewBudget(most int64) *Budget { return &Budget{most: most} }

// Used is how many bytes shadows hold.
func (b *Budget) Used() int64 { return b.used.Load() }

// enough is where shadows begin to be dropped, so that those which may stay find
// room while the dropped ones give theirs back.
func (b *Budget) enough() int64 { return b.most - b.most/8 }

// admit has the flow hold what a connection takes, which are so many bytes, or says that
// there is no room for one. No older flow is dropped for it, and what those that run have
// still to say has room too.
func (b *Budget) admit(f *flow, takes int64) bool {
	if b.used.Add(takes) > b.most-b.most/4 {
		b.used.Add(-takes)
		return false
	}
	f.charged.Add(takes)
	f.fixed.Add(takes)
	return true
}

// charge has the flow hold n bytes more, or says that there is no room. It never
// waits.
func (b *Budget) charge(f *flow, n int64) bool {
	used := b.used.Add(n)
	if used > b.most {
		b.used.Add(-n)
		b.evict(n)
		return false
	}
	f.charged.Add(n)
	if used > b.enough() {
		b.evict(0)
	}
	return true
}

// refund takes n bytes back that the flow held.
func (b *Budget) refund(f *flow, n int64) {
	f.charged.Add(-n)
	b.used.Add(-n)
}

// settle takes back all that a flow holds which is gone, once: its Tap may have had
// a chunk charged at that moment.
func (b *Budget) settle(f *flow) { b.used.Add(-f.charged.Swap(0)) }

// evict drops the newest shadows, as many as hold what is too much, and n bytes.
// Where another does so at this moment it leaves it to that one.
func (b *Budget) evict(n int64) {
	if !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	excess := b.used.Load() + n - b.enough()
	for f := b.newest; f != nil && excess > 0; f = f.older {
		excess -= f.charged.Load()
		f.drop(overBudget)
	}
}

// enter and leave keep the list of flows that run.
func (b *Budget) enter(f *flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.older = b.newest; f.older != nil {
		f.older.newer = f
	}
	b.newest = f
}

func (b *Budget) leave(f *flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.newer != nil {
		f.newer.older = f.older
	} else if b.newest == f {
		b.newest = f.older
	}
	if f.older != nil {
		f.older.newer = f.newer
	}
	f.older, f.newer = nil, nil
}
