// Package idle makes a process one that runs only where nobody else wants the
// processors: what it does costs others nothing but time that is left over.
package idle

import (
	"fmt"
	"os"
	"strconv"
	"unsafe"

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

// Yield gives all threads of this process the nice value 19, and with them those that
// they make later: of a processor that others want it gets a sixtieth or so.
func Yield() error {
	for {
		threads, err := threads()
		if err != nil {
			return err
		}
		changed := false
		for _, id := range threads {
			was, err := unix.Getpriority(unix.PRIO_PROCESS, id)
			if err == nil && was != rawNice19 {
				changed, err = true, unix.Setpriority(unix.PRIO_PROCESS, id, 19)
			}
			if err != nil && err != unix.ESRCH {
				return fmt.Errorf("set nice value of thread %d to 19: %w", id, err)
			}
		}
		if !changed {
			return nil
		}
	}
}

// rawNice19 is how the system call says 19: it returns 20 less the nice value.
const rawNice19 = 1

// enterAll is one look at all threads: one that was made meanwhile by a thread that
// had still to be changed is found by the next look.
func enterAll() (changed bool, err error) {
	threads, err := threads()
	if err != nil {
		return false, err
	}
	for _, id := range threads {
		entered, err := enter(id)
		if err != nil {
			return changed, fmt.Errorf("set scheduling policy of thread %d to SCHED_IDLE: %w", id, err)
		}
		changed = changed || entered
	}
	return changed, nil
}

// threads are those of this process.
func threads() ([]int, error) {
	names, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	all := make([]int, 0, len(names))
	for _, name := range names {
		id, err := strconv.Atoi(name.Name())
		if err != nil {
			return nil, fmt.Errorf("list threads: %w", err)
		}
		all = append(all, id)
	}
	return all, nil
}

// enter changes one thread, and says whether there was anything to change. One that
// has ended meanwhile needs nothing.
func enter(thread int) (changed bool, err error) {
	policy, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, uintptr(thread), 0, 0)
	if errno == 0 && policy != unix.SCHED_IDLE {
		// Not sched_setattr(2): a filter of system calls can look into this one.
		var priority int32
		changed = true
		_, _, errno = unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(thread), unix.SCHED_IDLE, uintptr(unsafe.Pointer(&priority)))
	}
	if errno == unix.ESRCH {
		return false, nil
	}
	if errno != 0 {
		return false, errno
	}
	return changed, nil
}
