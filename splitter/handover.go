package splitter

import "slices"

// handedMost bounds how many datagrams wait for a worker that others have for it:
// it may be slower than all of them together.
const handedMost = 1024

// handOver gives datagrams to the worker that has their flow. It happens while
// sockets of a front come or go. What the other has no room for is lost.
func (w *worker) handOver(owner *worker, f *front, t talker, first, last int) {
	for i := first; i < last; i++ {
		if owner.handing.Add(1) > handedMost {
			owner.handing.Add(-1)
			w.relay.faults.datagrams.Add(1)
			continue
		}
		bytes := slices.Clone(w.inbox.bytes(i))
		if !owner.tryPost(func() { owner.handed(f, t, bytes) }) {
			owner.handing.Add(-1)
			w.relay.faults.datagrams.Add(1)
		}
	}
}

// handed takes over a datagram that came to another worker. Its flow may have
// ended meanwhile.
func (w *worker) handed(f *front, t talker, bytes []byte) {
	w.handing.Add(-1)
	place := w.placeOf(f)
	if place < 0 {
		w.relay.faults.datagrams.Add(1)
		return
	}
	w.filled = max(w.filled, 1)
	w.inbox.put(bytes)
	w.deliver(place, t, 0, 1)
}
