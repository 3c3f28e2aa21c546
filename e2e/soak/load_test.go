//go:build soak

package soak

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
)

// patience is how long a client waits for anything: what no busy machine needs.
const patience = time.Minute

// load is all clients and what became of them.
type load struct {
	t         *testing.T
	ns        *nettest.NS
	candidate *candidate // the failing one
	clients   sync.WaitGroup

	mu      sync.Mutex
	done    map[string]int
	served  map[string]int // by who greeted
	excused int            // whom the candidate took and did not greet, because it changed
	failed  atomic.Int64
	// Of UDP: questions that were answered, and how often one was not though the
	// candidate was there all the time.
	answered, unheard atomic.Int64
}

// begin starts clients of a kind at an address, which are counted by a name.
func (l *load) begin(ctx context.Context, k kind, name, address string) {
	for range k.many {
		l.clients.Go(func() {
			err := l.ns.NS.Do(func() error { // on a thread of its own
				for ctx.Err() == nil {
					l.once(k, name, address)
					time.Sleep(k.pause)
				}
				return nil
			})
			if err != nil {
				l.t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// once is one client. It fails for whatever goes wrong, but for one thing that no
// relay can help: that the candidate takes its connection and resets it, before it
// greets, because it ends.
func (l *load) once(k kind, name, address string) {
	before := l.candidate.changes.Load()
	who, err := k.visit(l, address)
	changed := l.candidate.changed(before)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.done[name]++
		l.served[who]++
	case errors.Is(err, errGone):
	case who == "" && changed && errors.Is(err, syscall.ECONNRESET) && strings.HasPrefix(name, "relayed"):
		l.excused++
	default:
		if l.failed.Add(1) <= 20 {
			l.t.Errorf("a client failed: %s, served by %q: %v", name, who, err)
		}
	}
}

// sum is what has been done, by kind.
func (l *load) sum() (done, served map[string]int, all int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.done {
		all += n
	}
	return maps.Clone(l.done), maps.Clone(l.served), all
}
