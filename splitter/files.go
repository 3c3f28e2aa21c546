package splitter

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// filesKept is how many file descriptors flows leave to the rest of the process
// (the control socket, without which there is no way back, the store, health
// checks) and to pipes.
const filesKept = 64 + 2*pipesOfAll

// files counts the descriptors of flows, of all workers together.
type files struct {
	most int64         // set before there are workers, as is
	lack syscall.Errno // what is short when they are used: EMFILE, or ENOMEM
	used atomic.Int64

	handed atomic.Bool // the kernel may hand flows over: a part is left for those

	limit int64        // the most by the process's limit, of which those come first that
	own   atomic.Int64 // listeners and workers have
}

// bound lowers the most to that of so many flows, for the sake of memory.
func (f *files) bound(flows int64) {
	if flows < f.most/filesOfFlow {
		f.most, f.lack = flows*filesOfFlow, unix.ENOMEM
	}
}

// filesFor says how many descriptors flows may have of a limit of which so many
// are taken.
func filesFor(limit, taken uint64) int64 {
	if taken >= limit {
		return 0
	}
	free := int64(min(limit-taken, 1<<31))
	return free - min(filesKept, free/4)
}

// measure sets the most by the process's limit.
func (f *files) measure() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("get limit of file descriptors: %w", err)
	}
	next, err := newReserve() // the lowest free number, which is about how many there are
	if err != nil {
		return fmt.Errorf("open file descriptor: %w", err)
	}
	_ = unix.Close(next)
	f.limit = filesFor(limit.Cur, uint64(next))
	f.most, f.lack = f.limit, unix.EMFILE
	return nil
}

// What is left to flows that the kernel hands over, while it does: one in keptShare.
// Where more than fullShare parts of fullOf are used it should not do so any more, and
// what is left is for those who come until it has been told.
const (
	keptShare = 8
	fullShare = 3
	fullOf    = 4
)

// short says whether there are too few for another flow of so many, handed over by the
// kernel or not.
func (f *files) short(more int64, handedOver bool) bool {
	if !handedOver && f.handed.Load() {
		more += f.most / keptShare
	}
	more += f.used.Load()
	return more > f.most || more+f.own.Load() > f.limit
}

// full says whether so many are used that the kernel should hand no flows over.
func (f *files) full() bool {
	used := f.used.Load()
	return used > f.most/fullOf*fullShare || used+f.own.Load() > f.limit/fullOf*fullShare
}

// filesOfWorker is how many a worker has for itself: its epoll, its bell and its
// reserve.
const filesOfWorker = 3

// filesOfFlow is how many a flow of TCP has.
const filesOfFlow = 2
