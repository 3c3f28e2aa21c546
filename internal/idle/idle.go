// Package idle makes a process one that runs only where nobody else wants the
// processors, and on half of them: what it does costs others nothing but time that is left
// over.
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

// Confine keeps all threads of this process, and with them those that they make later, to
// the last half of the processors that it may use, and to one at least. A processor that
// has nothing to do takes over who waits for another one at once. One that goes on with what
// runs under SCHED_IDLE does not before the next tick, for up to 4 ms
// (sched_balance_newidle in kernel/sched/fair.c): the others are left free for that.
func Confine() error {
	var may unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return fmt.Errorf("see which processors there are: %w", err)
	}
	half := lastHalf(may)
	for {
		changed, err := confineAll(half)
		if err != nil || !changed {
			return err
		}
	}
}

// lastHalf are the last half of some processors, one at least.
func lastHalf(of unix.CPUSet) unix.CPUSet {
	var half unix.CPUSet
	for cpu, left := len(of)*64-1, max(1, of.Count()/2); left > 0 && cpu >= 0; cpu-- {
		if of.IsSet(cpu) {
			half.Set(cpu)
			left--
		}
	}
	return half
}

// confineAll is one look at all threads, as enterAll is.
func confineAll(to unix.CPUSet) (changed bool, err error) {
	threads, err := threads()
	if err != nil {
		return false, err
	}
	for _, id := range threads {
		var was unix.CPUSet
		err := unix.SchedGetaffinity(id, &was)
		if err == nil && was != to {
			changed, err = true, unix.SchedSetaffinity(id, &to)
		}
		if err != nil && err != unix.ESRCH {
			return changed, fmt.Errorf("keep thread %d to half of the processors: %w", id, err)
		}
	}
	return changed, nil
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
