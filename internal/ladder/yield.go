package ladder

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/idle"
)

// leastNice is the lowest priority that is not SCHED_IDLE: against one of 0 it has a
// hundredth (sched_prio_to_weight in the kernel's sched/core.c).
const leastNice = 19

// yieldWholly has this process run where nobody else wants the processors, and says
// by what means.
func yieldWholly() (string, error) { return yieldBy(idle.Enter, beNice) }

// yieldBy tries the one and then the other: a seccomp filter may refuse
// sched_setattr(2), as those of some containers do.
func yieldBy(enter, nice func() error) (string, error) {
	refused := enter()
	if refused == nil {
		return "SCHED_IDLE", nil
	}
	if err := nice(); err != nil {
		return "", errors.Join(refused, err)
	}
	return fmt.Sprintf("nice %d (%v)", leastNice, refused), nil
}

// beNice gives all threads of this process the lowest priority. Linux has one for
// each thread (setpriority(2)), and new ones have that of who makes them: a second
// look finds those that were made during the first.
func beNice() error {
	for range 2 {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err == nil {
				err = unix.Setpriority(unix.PRIO_PROCESS, id, leastNice)
			}
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("lower the priority of thread %s: %w", t.Name(), err)
			}
		}
	}
	return nil
}
