package ring

// A Writer writes into a ring. It is one thread's at a time.
type Writer struct {
	memory
	wrote uint64 // the tail, of which the memory has a copy
	wake  func()
}

// NewWriter returns the writer of a ring that has never been used, in zeroed memory of
// Size(records, flags) bytes. wake wakes a reader that sleeps.
func NewWriter(m []byte, records, flags int, wake func()) (*Writer, error) {
	mapped, err := newMemory(m, records, flags)
	if err != nil {
		return nil, err
	}
	return &Writer{memory: mapped, wake: wake}, nil
}

// Put writes a record, and says whether there was room for it with so many bytes left.
// It never waits.
func (w *Writer) Put(r Record, leave int) bool {
	size := r.size()
	if len(r.Body) >= bodyMost || size+uint64(leave) > w.room() {
		return false
	}
	header := r.header()
	w.copy(w.wrote, header[:])
	w.copy(w.wrote+headerSize, r.Body)
	w.wrote += size
	w.tail.Store(w.wrote)
	if w.asleep.Load() != 0 && w.asleep.CompareAndSwap(1, 0) {
		w.wake()
	}
	return true
}

// room is how many bytes are free: none, where the reader's number is none that it
// can have.
func (w *Writer) room() uint64 {
	size := uint64(len(w.records))
	if used := w.wrote - w.head.Load(); used <= size {
		return size - used
	}
	return 0
}

// Used is how many bytes wait for the reader, or did a moment ago. It may be called from
// any thread.
func (w *Writer) Used() int64 {
	head := w.head.Load() // first: the tail may pass it meanwhile, and not the other way
	return int64(min(w.tail.Load()-head, uint64(len(w.records))))
}

func (w *Writer) copy(to uint64, bytes []byte) {
	place := to & uint64(len(w.records)-1)
	n := copy(w.records[place:], bytes)
	copy(w.records, bytes[n:])
}

// Flag is what the reader has set a flag to. It may be called from any thread.
func (w *Writer) Flag(slot uint32) uint32 { return w.flags[slot].Load() }
