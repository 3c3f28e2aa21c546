package idle

import (
	"context"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Rest is an experiment.
func Rest(ctx context.Context) {
	every, pause, ok := strings.Cut(os.Getenv("REST_TRIAL"), ",")
	if !ok {
		return
	}
	e, _ := time.ParseDuration(every)
	p, _ := time.ParseDuration(pause)
	if e == 0 || p == 0 {
		return
	}
	for ctx.Err() == nil {
		var now unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
		t := time.Duration(now.Nano())
		next := (t/e + 1) * e
		time.Sleep(next - t)
		until := unix.NsecToTimespec(int64(next + p))
		_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, uintptr(unsafe.Pointer(&until)), 0, 0, 0)
	}
}
