// Package idle makes a process one that runs only where nobody else wants the
// processors: what it does costs others nothing but time that is left over.
package idle

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Enter puts all threads of this process under SCHED_IDLE (sched(7)), and with them
// those that they make later, for good: without CAP_SYS_NICE there is no way back.
func Enter() error {
	for {
		changed, err := enterAll()
		if err != nil || !changed {
			return err
		}
	}
}

// enterAll is one look at all threads: one that was made meanwhile by a thread that
// had still to be changed is found by the next look.
func enterAll() (changed bool, err error) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return false, fmt.Errorf("list threads: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return changed, fmt.Errorf("list threads: %w", err)
		}
		entered, err := enter(id)
		if err != nil {
			return changed, fmt.Errorf("set scheduling policy of thread %d to SCHED_IDLE: %w", id, err)
		}
		changed = changed || entered
	}
	return changed, nil
}

// enter changes one thread, and says whether there was anything to change. One that
// has ended meanwhile needs nothing.
func enter(thread int) (changed bool, err error) {
	is, err := unix.SchedGetAttr(thread, 0)
	if err == nil && is.Policy != unix.SCHED_IDLE {
		changed, err = true, unix.SchedSetAttr(thread, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	}
	if err == unix.ESRCH {
		return false, nil
	}
	return changed, err
}
