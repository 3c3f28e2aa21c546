package ring

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// The memory begins with a page of its own: each number lies on a cache line that
// nobody else writes. Then come the flags, then the records.
const (
	pageSize = 4096

	tailAt   = 64  // written by the writer: how many bytes it has ever written
	headAt   = 128 // written by the reader: how many it has ever read
	asleepAt = 192 // 1: the reader sleeps
)

// Size is how large the memory of a ring is, in bytes, that has so many bytes for
// records, a power of two, and so many flags.
func Size(records, flags int) int { return pageSize + flagsSize(flags) + records }

// flagsSize is rounded up to pages.
func flagsSize(flags int) int { return (4*flags + pageSize - 1) / pageSize * pageSize }

// memory is what a ring lies in.
type memory struct {
	tail, head *atomic.Uint64
	asleep     *atomic.Uint32
	flags      []atomic.Uint32
	records    []byte
}

func newMemory(m []byte, records, flags int) (memory, error) {
	switch {
	case records < 2*headerSize || records&(records-1) != 0:
		return memory{}, fmt.Errorf("map ring: %d bytes for records are no power of two, or too few", records)
	case len(m) != Size(records, flags):
		return memory{}, fmt.Errorf("map ring: it has %d bytes, %d for records and %d flags take %d", len(m), records, flags, Size(records, flags))
	case uintptr(unsafe.Pointer(&m[0]))%64 != 0:
		return memory{}, fmt.Errorf("map ring: its memory does not begin at a cache line")
	}
	return memory{
		tail: at[atomic.Uint64](m, tailAt), head: at[atomic.Uint64](m, headAt), asleep: at[atomic.Uint32](m, asleepAt),
		flags:   unsafe.Slice(at[atomic.Uint32](m, pageSize), flags),
		records: m[pageSize+flagsSize(flags):],
	}, nil
}

// at is the number that lies there.
func at[T atomic.Uint32 | atomic.Uint64](m []byte, offset int) *T {
	return (*T)(unsafe.Pointer(&m[offset]))
}
