package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// noCores has no dump of this process's memory written any more, which would have private
// keys in it (core(5)): neither to a file, nor to a program that core_pattern names and
// that heeds the limit; and one that does not gets none of the memory.
//
// PR_SET_DUMPABLE (prctl(2)) would do the same, and give /proc/PID to root: `off --force`
// reads there where the state directory of a daemon is that does not answer. Who may
// look into this process without it may read the files of its keys as well.
func noCores() error {
	var errs []error
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("set RLIMIT_CORE to 0: %w", err))
	}
	if err := os.WriteFile("/proc/self/coredump_filter", []byte("0"), 0); err != nil {
		errs = append(errs, fmt.Errorf("leave memory out of core dumps: %w", err))
	}
	return errors.Join(errs...)
}
