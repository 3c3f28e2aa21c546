// Package process ends another process by a handle to exactly that process
// (pidfd_open(2), Linux 5.3), so that a pid that was given to someone else in
// the meantime is never hit.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrOther says that the process is not the program that was to be ended.
var ErrOther = errors.New("it is another program")

// Kill ends the process with SIGKILL, which a stopped process obeys too, and
// waits until it is gone or ctx ends. It does so only if the process is the
// named program; else the error wraps ErrOther. A process that is already
// gone is no error.
func Kill(ctx context.Context, pid int, program string) error {
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(handle) }()
	names, err := namesOf(pid)
	// The names are those of the process that the handle stands for only if
	// that one lives on now that they have been read.
	if gone(handle, 0) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read name of process %d: %w", pid, err)
	}
	if !slices.Contains(names, program) {
		return fmt.Errorf("end process %d (%s): %w, not %s", pid, strings.Join(names, ", "), ErrOther, program)
	}
	if err := unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	for !gone(handle, 10*time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("wait for the end of process %d: %w", pid, err)
		}
	}
	return nil
}

// gone waits for the process to end; a handle becomes readable when it has,
// also while its parent has not looked yet.
func gone(handle int, wait time.Duration) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(handle), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n > 0 && err == nil
		}
	}
}

// namesOf returns the process's own name and its program's file name.
func namesOf(pid int) ([]string, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	comm, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return nil, err
	}
	names := []string{strings.TrimSpace(string(comm))}
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		// A program replaced by an upgrade is shown with this suffix, proc(5).
		names = append(names, filepath.Base(strings.TrimSuffix(exe, " (deleted)")))
	}
	return names, nil
}
