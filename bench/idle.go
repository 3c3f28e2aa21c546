package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// warming is how many flows a program has had before its memory is looked at.
const warming = 50

// idle measures what silent flows hold, each time of a program that has just
// begun.
func (m *measuring) idle(ctx context.Context) error {
	for turn := range m.options.idleTurns {
		m.say("%d silent flows, turn %d of %d", m.options.idle, turn+1, m.options.idleTurns)
		for i, w := range m.lab.ways {
			if err := m.open(ctx, w); err != nil {
				return err
			}
			err := m.idleOf(w, &m.all[i])
			w.shut()
			if err != nil {
				return fmt.Errorf("measure silent flows of %q: %w", w.name, err)
			}
		}
	}
	return nil
}

func (m *measuring) idleOf(w *way, a *account) error {
	return m.lab.client.Do(func() error {
		release, err := hold(w.ends(portGreet, false), warming)
		release()
		if err != nil {
			return err
		}
		before, err := w.memory()
		if err != nil {
			return err
		}
		release, err = hold(w.ends(portGreet, false), m.options.idle)
		defer release()
		if err != nil {
			return err
		}
		after, err := w.memory()
		if err != nil {
			return err
		}
		if w.program != nil {
			a.add(idleResident, (after.resident-before.resident)/float64(m.options.idle))
		}
		a.add(idleKernel, (after.kernel-before.kernel)/float64(m.options.idle))
		return nil
	})
}

// memory is what a way holds, in bytes.
type memory struct{ resident, kernel float64 }

// memory waits until the kernel's has come to rest: it frees sockets later than
// they are closed.
func (w *way) memory() (memory, error) {
	var m memory
	var err error
	last := 0.0
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if m.kernel, err = slab(); err != nil {
			return m, err
		}
		if near := m.kernel - last; near < 128<<10 && near > -128<<10 {
			break
		}
		last = m.kernel
	}
	if w.program != nil {
		m.resident, err = w.program.resident()
	}
	return m, err
}

// files lets this process, and those it starts, have as many files open as the
// silent flows need: both ends of each are ours.
func files(want int) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read limit of open files: %w", err)
	}
	need := uint64(2*want + 2000)
	if limit.Cur >= need {
		return nil
	}
	limit.Cur, limit.Max = need, max(limit.Max, need)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise limit of open files to %d: %w: run `ulimit -n %[1]d` as root first, or give -idle fewer", need, err)
	}
	return nil
}

// slab is what the kernel has in small objects, in bytes: sockets and what
// belongs to them, of everybody on this machine.
func slab() (float64, error) {
	kib, err := field("/proc/meminfo", "Slab:")
	return kib * 1024, err
}
