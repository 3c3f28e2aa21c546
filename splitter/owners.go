package splitter

import (
	"hash/maphash"
	"sync"
)

// owners say which worker has the flow of a talker, in parts that rarely meet.
// The kernel gives the datagrams of one client to one socket of a front, by a
// hash over as many sockets as there are: while a front comes or goes, and where
// one takes the place of another, that may be another worker's than before. So a
// worker asks here before it begins a flow.
type owners struct {
	seed  maphash.Seed
	parts [64]owned
}

type owned struct {
	mu      sync.Mutex
	workers map[talker]int32
}

func (o *owners) part(t talker) *owned {
	return &o.parts[maphash.Comparable(o.seed, t)%uint64(len(o.parts))]
}

func newOwners() *owners {
	o := &owners{seed: maphash.MakeSeed()}
	for i := range o.parts {
		o.parts[i].workers = map[talker]int32{}
	}
	return o
}

// claim gives the talker to the worker of that number unless one has it already,
// and returns whose it is.
func (o *owners) claim(t talker, worker int) int {
	part := o.part(t)
	part.mu.Lock()
	defer part.mu.Unlock()
	if owner, taken := part.workers[t]; taken {
		return int(owner)
	}
	part.workers[t] = int32(worker)
	return worker
}

// of says whose the talker is, if anybody's.
func (o *owners) of(t talker) (worker int, taken bool) {
	part := o.part(t)
	part.mu.Lock()
	defer part.mu.Unlock()
	owner, taken := part.workers[t]
	return int(owner), taken
}

// release takes the talker from whoever has it.
func (o *owners) release(t talker) {
	part := o.part(t)
	part.mu.Lock()
	defer part.mu.Unlock()
	delete(part.workers, t)
}
