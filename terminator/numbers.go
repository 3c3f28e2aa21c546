package terminator

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Numbers are those of one split's flows; they only grow.
type Numbers struct {
	// Clear are the flows that began in clear, Terminated those that were seen inside TLS from
	// the beginning or by STARTTLS, Resumed how many of these resumed a session.
	Clear, Terminated, Resumed uint64
	// PassedThrough are those that were passed through unseen, or the rest of them, by reason, of
	// which there is a bounded number.
	PassedThrough map[string]uint64
	// FailedClient and FailedPrimary are handshakes of flows that have failed, by whose.
	FailedClient, FailedPrimary uint64
	// Probes are handshakes of our own with the primary.
	Probes uint64
	// Panicked are the taps, flows and probes that a panic has ended.
	Panicked uint64
}

type counts struct {
	clear, terminated, resumed, failedClient, failedPrimary, probes, panicked atomic.Uint64

	mu     sync.Mutex
	passed map[string]uint64
}

// isSeen counts a flow that is seen inside TLS.
func (c *counts) isSeen(resumed bool) {
	c.terminated.Add(1)
	if resumed {
		c.resumed.Add(1)
	}
}

func (c *counts) passedThrough(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed == nil {
		c.passed = make(map[string]uint64, len(reasons))
	}
	c.passed[reason]++
}

// Numbers returns them as they are now.
func (t *Terminator) Numbers() Numbers {
	c := &t.counts
	c.mu.Lock()
	passed := maps.Clone(c.passed)
	c.mu.Unlock()
	return Numbers{
		Clear: c.clear.Load(), Terminated: c.terminated.Load(), Resumed: c.resumed.Load(), PassedThrough: passed,
		FailedClient: c.failedClient.Load(), FailedPrimary: c.failedPrimary.Load(), Probes: c.probes.Load(), Panicked: c.panicked.Load(),
	}
}
