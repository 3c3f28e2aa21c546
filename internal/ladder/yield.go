package ladder

import (
	"errors"
	"fmt"

	"github.com/splitd/splitd/internal/idle"
)

// yieldWholly has this process run where nobody else wants the processors, and says
// by what means.
func yieldWholly() (string, error) {
	_ = idle.Confine() // else clients wait a little longer: shadows do without, too
	return yieldBy(idle.Enter, idle.Yield)
}

// yieldBy tries the one and then the other: a seccomp filter may refuse
// sched_setscheduler(2), as those of some containers do.
func yieldBy(enter, nice func() error) (string, error) {
	refused := enter()
	if refused == nil {
		return "SCHED_IDLE", nil
	}
	if err := nice(); err != nil {
		return "", errors.Join(refused, err)
	}
	return fmt.Sprintf("nice 19 (%v)", refused), nil
}
