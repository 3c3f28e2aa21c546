package shadower

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/shadow/ring"
)

// outlet is where a relay's thread writes to. Its methods wait for nobody: in the rare
// case that another is at it they have no room. One that is shared is for those who have
// no thread of their own: of these each waits for the others, while they copy.
type outlet struct {
	writer  *ring.Writer
	records int
	shared  bool
	busy    atomic.Bool // guards writer, free and turn
	queue   sync.Mutex  // is in the place of busy where the outlet is shared
	free    []uint32    // slots that no flow has
	turn    uint32
	untold  atomic.Pointer[untold]
	dead    atomic.Bool // nobody reads any more
	memory  []byte      // the writer's
	bell    *os.File    // of the writer's
}

// untold is a flow that has ended, of which the ring could not be told.
type untold struct {
	record ring.Record
	next   *untold
}

// newOutlet makes an outlet, of one thread or shared, and what its reader gets, which is
// the caller's to close. The memory goes when nobody has the outlet any more: threads may
// be in it after its reader has died.
func newOutlet(records int, isShared bool) (*outlet, *shared, error) {
	s, err := newShared(records)
	if err != nil {
		return nil, nil, err
	}
	fd, err := unix.FcntlInt(s.files[1].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("duplicate bell", err), s.unmap(), s.close())
	}
	o := &outlet{memory: s.memory, records: records, shared: isShared, free: make([]uint32, flagsOf), bell: os.NewFile(uintptr(fd), "bell")}
	for i := range o.free {
		o.free[i] = uint32(flagsOf - 1 - i)
	}
	if o.writer, err = ring.NewWriter(s.memory, records, flagsOf, ringer(fd)); err != nil {
		return nil, nil, errors.Join(err, s.unmap(), s.close(), o.bell.Close())
	}
	runtime.AddCleanup(o, func(memory []byte) { _ = unix.Munmap(memory) }, s.memory)
	return o, s, nil
}

// enter has the outlet for itself, unless somebody else has, or of a shared one: unless it
// is dead.
func (o *outlet) enter() bool {
	if !o.shared {
		return o.busy.CompareAndSwap(false, true)
	}
	o.queue.Lock()
	if o.dead.Load() {
		o.queue.Unlock()
		return false
	}
	return true
}

func (o *outlet) leave() {
	if o.shared {
		o.queue.Unlock()
	} else {
		o.busy.Store(false)
	}
	runtime.KeepAlive(o)
}

// kill has nobody enter any more, and gives the pages back: flows that say nothing for
// hours have the outlet for as long.
func (o *outlet) kill() {
	o.dead.Store(true)
	o.queue.Lock() // nobody else waits for this where it is not shared
	defer o.queue.Unlock()
	for !o.shared && !o.enter() {
		runtime.Gosched() // whoever is in there waits for nobody
	}
	_ = unix.Madvise(o.memory, unix.MADV_REMOVE) // where that is refused they go with the outlet
	runtime.KeepAlive(o)
}

// What an outlet says to a flow that is to be opened.
type welcome int

const (
	welcomed welcome = iota
	noRoom           // in the ring, whose reader is late
	noSlot           // the thread has as many flows as it can
	noReader
)

// open gives a flow a slot, tells the ring of it, and counts that. Half of the ring is
// for flows that have begun: the newest lose their shadow first.
func (o *outlet) open(r ring.Record, opened *atomic.Uint64) (slot, turn uint32, said welcome) {
	if !o.enter() {
		if o.dead.Load() {
			return 0, 0, noReader
		}
		return 0, 0, noRoom
	}
	defer o.leave()
	if len(o.free) == 0 {
		return 0, 0, noSlot
	}
	last := len(o.free) - 1
	if o.turn++; o.turn == 0 { // what flags are at first
		o.turn = 1
	}
	r.Slot, r.Turn = o.free[last], o.turn
	if !o.writer.Put(r, o.records/2) {
		return 0, 0, noRoom
	}
	opened.Add(1) // in here: when the outlet is dead all are counted
	o.free = o.free[:last]
	return r.Slot, r.Turn, welcomed
}

// put tells the ring of a chunk. Some room is left for the ends of flows.
func (o *outlet) put(r ring.Record) bool {
	if !o.enter() {
		return false
	}
	defer o.leave()
	return o.writer.Put(r, o.records/16)
}

// end tells the ring of the end of a flow, which is its slot's end too; later, where
// there is no room.
func (o *outlet) end(r ring.Record) {
	if o.enter() {
		told := o.finish(r)
		o.leave()
		if told {
			return
		}
	}
	u := &untold{record: r}
	for {
		u.next = o.untold.Load()
		if o.untold.CompareAndSwap(u.next, u) {
			return
		}
	}
}

// finish is end for who has entered.
func (o *outlet) finish(r ring.Record) bool {
	if !o.writer.Put(r, 0) {
		return false
	}
	o.free = append(o.free, r.Slot)
	return true
}

// catchUp tells the ring what it could not be told before. Threads that come meanwhile
// find no room, for as long as that takes.
func (o *outlet) catchUp() {
	if o.untold.Load() == nil || !o.enter() {
		return
	}
	defer o.leave()
	for u := o.untold.Swap(nil); u != nil; u = u.next {
		if !o.finish(u.record) {
			o.putBack(u)
			return
		}
	}
}

// putBack makes what is left of the untold so again.
func (o *outlet) putBack(first *untold) {
	last := first
	for last.next != nil {
		last = last.next
	}
	for {
		last.next = o.untold.Load()
		if o.untold.CompareAndSwap(last.next, first) {
			return
		}
	}
}

// over says whether the reader wants to hear no more of a flow.
func (o *outlet) over(slot, turn uint32) bool {
	defer runtime.KeepAlive(o)
	return o.dead.Load() || o.writer.Flag(slot) == turn
}

// used is how many bytes nobody has read yet, or about as many.
func (o *outlet) used() int64 {
	defer runtime.KeepAlive(o)
	if o.dead.Load() {
		return 0
	}
	return o.writer.Used()
}
