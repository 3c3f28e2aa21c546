package shadower

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/shadow/ring"
)

// flagsOf is how many flows of one thread can be shadowed at a time.
const flagsOf = 1 << 14

// ringOf is how much of a budget a ring has for records, where so many are threads': an
// eighth of it for these, but each has room for a chunk of 64 KiB, and none for more than
// the process can fall behind for long. The one that is shared has as much.
func ringOf(budget int64, rings int) int {
	const least, most = 128 << 10, 4 << 20
	size := least
	for int64(2*size) <= budget/8/int64(rings) && size < most {
		size *= 2
	}
	return size
}

// shared is a ring's memory and bell, to be given to another process.
type shared struct {
	memory []byte
	files  [2]*os.File // memory and bell
}

// newShared makes them: memfd_create(2), which nobody can make shorter any more, and
// eventfd(2).
func newShared(records int) (*shared, error) {
	size := ring.Size(records, flagsOf)
	fd, err := unix.MemfdCreate("splitd-shadows", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make shared memory: %w", err)
	}
	s := &shared{}
	s.files[0] = os.NewFile(uintptr(fd), "memory")
	// A page that is allocated at its first use would have a thread of the relay wait, or
	// where memory is not to be had any more (vm.overcommit_memory=2) end the daemon by
	// SIGBUS: all are there from the beginning.
	err = unix.Fallocate(fd, 0, 0, int64(size))
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err == nil {
		s.memory, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err == nil {
		fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make shared memory of %d bytes: %w", size, err), s.unmap(), s.close())
	}
	s.files[1] = os.NewFile(uintptr(fd), "bell")
	return s, nil
}

// close closes the files; the memory stays.
func (s *shared) close() error {
	var err error
	for _, f := range s.files {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

func (s *shared) unmap() error {
	if s.memory == nil {
		return nil
	}
	return unix.Munmap(s.memory)
}

// ringer returns what rings a bell: a number that is written wakes who reads.
func ringer(bell int) func() {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	return func() { _, _ = unix.Write(bell, one) } // one that is full is rung
}
