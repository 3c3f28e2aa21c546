package shadower

import (
	"sync/atomic"

	"github.com/splitd/splitd/shadow/runner"
)

// account is what the daemon knows of the flows of plays that follow one another, so
// that each is counted also where the process dies that has them.
type account struct {
	id     uint64        // of the first of the plays
	opened atomic.Uint64 // flows that a ring was told of

	full, broken, stopped, late, lost atomic.Uint64 // flows that got no further than the daemon

	// Under process.mu:
	kept    []byte          // what was counted, for a process that takes over
	counted runner.Declined // of those that got no further, what is in there
	before  uint64          // of the opened, those of processes that are no more
	settled uint64          // of the opened, those that are in what was kept, or lost
	resets  int
}

// declined are the flows that got no further than the daemon, or were lost on the way.
func (a *account) declined() runner.Declined {
	return runner.Declined{Full: a.full.Load(), Broken: a.broken.Load(), Stopped: a.stopped.Load(), Late: a.late.Load(), Lost: a.lost.Load()}
}

// keep is told what was saved. Of the flows that this process was told of so many are
// in there; process.mu is held.
func (a *account) keep(text []byte, counted runner.Declined, settled uint64) {
	a.kept, a.counted, a.settled = text, counted, a.before+settled
}

// die counts the flows that have gone with a process that nobody tells of any more;
// process.mu is held.
func (a *account) die() {
	opened := a.opened.Load()
	a.lost.Add(opened - min(a.settled, opened))
	a.before, a.settled = opened, opened
}
