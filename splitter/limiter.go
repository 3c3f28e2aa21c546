package splitter

import (
	"maps"
	"sync"
	"time"
)

// limiter lets one message of a kind pass per second. The zero value is ready.
type limiter struct {
	mu    sync.Mutex
	kinds map[string]*kind
	many  int // so many are looked through for those to forget
}

const (
	// kindsKept is how long a kind is remembered of which nothing is said: they have
	// names of splits and backends, which come and go.
	kindsKept = time.Minute
	// kindsFew are not worth looking through.
	kindsFew = 100
)

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
		l.forget(now)
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

// forget takes kinds out whose last message was long ago.
func (l *limiter) forget(now time.Time) {
	if len(l.kinds) < l.many {
		return
	}
	maps.DeleteFunc(l.kinds, func(_ string, k *kind) bool { return now.Sub(k.last) >= kindsKept })
	l.many = 2*len(l.kinds) + kindsFew
}
