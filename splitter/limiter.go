package splitter

import (
	"sync"
	"time"
)

// limiter lets one message of a kind pass per second. The zero value is ready.
type limiter struct {
	mu    sync.Mutex
	kinds map[string]*kind
}

type kind struct {
	last time.Time
	left int
}

// allow says whether a message of that kind may be written now, and how many
// were not since the last that was.
func (l *limiter) allow(name string, now time.Time) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, known := l.kinds[name]
	if !known {
		if l.kinds == nil {
			l.kinds = map[string]*kind{}
		}
		k = &kind{}
		l.kinds[name] = k
	}
	if known && now.Sub(k.last) < time.Second {
		k.left++
		return 0, false
	}
	left, k.left, k.last = k.left, 0, now
	return left, true
}
