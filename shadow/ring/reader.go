package ring

import (
	"fmt"
)

// A Reader reads from a ring. It is one goroutine's at a time.
type Reader struct {
	memory
	read  uint64 // the head, of which the memory has a copy
	next  uint64 // where the record behind the one that is lent begins
	spare []byte // for a body that goes over the end
}

// NewReader returns the reader of a ring, in memory of Size(records, flags) bytes.
func NewReader(m []byte, records, flags int) (*Reader, error) {
	mapped, err := newMemory(m, records, flags)
	if err != nil {
		return nil, err
	}
	return &Reader{memory: mapped}, nil
}

// Next returns the oldest record that has not been returned, false when there is none
// now. Its body is lent until the next call. An error says that the memory holds what
// no writer writes.
func (r *Reader) Next() (record Record, ok bool, err error) {
	if r.next != r.read {
		r.read = r.next
		r.head.Store(r.read)
	}
	there := r.tail.Load() - r.read
	switch {
	case there == 0:
		return Record{}, false, nil
	case there > uint64(len(r.records)) || there < headerSize:
		return Record{}, false, fmt.Errorf("read ring: %d bytes are said to be in it, it has room for %d", there, len(r.records))
	}
	var header [headerSize]byte
	r.copy(header[:], r.read)
	record, body := recordOf(header)
	record.Body = r.body(r.read+headerSize, body, there)
	if size := (Record{Body: record.Body}).size(); uint64(len(record.Body)) == body && size <= there {
		r.next = r.read + size
		return record, true, nil
	}
	return Record{}, false, fmt.Errorf("read ring: a record of %d bytes is more than the %d that are there", body, there)
}

// body is where it lies, unless it goes over the end of the records.
func (r *Reader) body(from, size, there uint64) []byte {
	if size > there {
		return nil
	}
	place := from & uint64(len(r.records)-1)
	if place+size <= uint64(len(r.records)) {
		return r.records[place : place+size : place+size]
	}
	if uint64(cap(r.spare)) < size {
		r.spare = make([]byte, size)
	}
	r.spare = r.spare[:size]
	r.copy(r.spare, from)
	return r.spare
}

func (r *Reader) copy(to []byte, from uint64) {
	place := from & uint64(len(r.records)-1)
	n := copy(to, r.records[place:])
	copy(to[n:], r.records)
}

// Doze says that the reader is about to sleep, and whether it may: nothing has come
// meanwhile. Then the next record wakes it up, see [NewWriter].
func (r *Reader) Doze() bool {
	r.asleep.Store(1)
	if r.tail.Load() == r.read {
		return true
	}
	r.asleep.Store(0)
	return false
}

// Flag sets a flag for the writer. Slots that there are not are nobody's.
func (r *Reader) Flag(slot, to uint32) {
	if uint64(slot) < uint64(len(r.flags)) {
		r.flags[slot].Store(to)
	}
}
