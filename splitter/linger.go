package splitter

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// A front of UDP has the same sockets from its beginning to its end, one for each
// worker: the kernel chooses among as many as there are. It goes on after its
// split has gone until its last flow has ended, because that is answered from its
// sockets, and nobody else can be.

// udp says whether the front is one of UDP.
func (f *front) udp() bool { return f.address.transport == traffic.UDP }

// receiveRoom is what is asked for a socket that all clients send to, and more
// than the kernel gives: net.core.rmem_max, socket(7).
const receiveRoom = 4 << 20

// prepareDatagrams binds a socket of UDP. There is no SO_REUSEADDR, with which
// another program could take the address away (socket(7)).
func prepareDatagrams(socket int, to *endpoint, at spot, shared bool) error {
	options := []struct{ level, name, value int }{{unix.SOL_SOCKET, unix.SO_RCVBUF, receiveRoom}}
	add := func(level, name int) {
		options = append(options, struct{ level, name, value int }{level, name, 1})
	}
	switch wildcard := at.Addr().IsUnspecified(); {
	case to.family == unix.AF_INET6:
		add(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if wildcard {
			add(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
		}
	case wildcard:
		add(unix.IPPROTO_IP, unix.IP_PKTINFO)
	}
	if shared {
		add(unix.SOL_SOCKET, unix.SO_REUSEPORT)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(socket, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	if errno := to.bind(socket); errno != 0 {
		return errno
	}
	return unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// lingering is what a front of UDP that goes waits for besides.
type lingering struct {
	shut   atomic.Int32 // so many workers begin no flows for it any more
	flows  *atomic.Int64
	empty  chan struct{} // closed when all of them do and its last flow has ended
	closed atomic.Bool
}

// look sees whether the front is empty.
func (l *lingering) look(workers int) {
	if int(l.shut.Load()) == workers && l.flows.Load() == 0 && l.closed.CompareAndSwap(false, true) {
		close(l.empty)
	}
}

// linger has a front of UDP begin no flows any more, and closes it: now, or when
// its last flow has ended. What a client sends who has none is for cover, another
// front that its address belongs to from now on, or as lost as where nobody
// listens. r.changing and r.mu are held.
func (r *Relay) linger(f, cover *front) {
	l := f.leave
	if l == nil {
		l = &leave{wanted: make(chan struct{}), lingering: &lingering{flows: &f.flows, empty: make(chan struct{})}}
		f.leave = l
		r.aside(func() {
			each(r.workers, func(w *worker, done func()) {
				defer done()
				w.linger(f, l, cover)
			})
		})
		if f.flows.Load() == 0 {
			r.close(f)
			return
		}
		r.log.Info("listening for open flows alone", "split", f.choice.Load().split, "address", f.address.String(), "flows", f.flows.Load())
		r.lingerings.Go(func() { r.awaitLast(f, l) })
		return
	}
	r.aside(func() {
		each(r.workers, func(w *worker, done func()) {
			defer done()
			if at := w.placeOf(f); at >= 0 {
				w.listeners[at].cover = cover
			}
		})
	})
}

// awaitLast closes the front when its last flow has ended.
func (r *Relay) awaitLast(f *front, l *leave) {
	select {
	case <-l.wanted:
		return
	case <-l.empty:
	}
	defer r.change()()
	if f.leave == l {
		r.close(f)
	}
}

// reopen has a front that was to go begin flows again. r.mu is held.
func (r *Relay) reopen(f *front) {
	each(r.workers, func(w *worker, done func()) {
		defer done()
		if at := w.placeOf(f); at >= 0 {
			w.listeners[at].leave, w.listeners[at].cover = nil, nil
		}
	})
}

// coverOf is the front that has the address of one that goes: the wildcard's.
func (r *Relay) coverOf(f *front, stays func(spot) bool) *front {
	if at := f.address.wildcard(); at != f.address && stays(at) {
		return r.fronts[at]
	}
	return nil
}

// batchesLeft bounds what is taken from a socket before its front goes: all that was
// there, because the kernel gives twice receiveRoom at most (socket(7)) and takes
// least for a datagram. What comes meanwhile comes too late.
const (
	batchesLeft = 2 * receiveRoom / least / batchMost
	least       = 512
)

// linger begins no flows any more for a front, after those of the datagrams that
// wait at its socket.
func (w *worker) linger(f *front, l *leave, cover *front) {
	if place := w.placeOf(f); place >= 0 { // else the worker has ended
		w.takeRest(place)
		w.listeners[place].leave, w.listeners[place].cover = l, cover
	}
	l.shut.Add(1)
	l.look(len(f.sockets))
}

// hearsAll says whether the worker has a socket yet of a front of UDP. The flows of
// that may be others', but the kernel draws again for all clients when there is a
// socket less, so none is closed before the last flow has ended.
func (w *worker) hearsAll() bool {
	return slices.ContainsFunc(w.listeners, func(l listener) bool { return l.front != nil && l.front.udp() })
}

// takeRest takes what waits at a front's socket.
func (w *worker) takeRest(place int32) {
	for range batchesLeft {
		if w.receive(place) < batchMost {
			return
		}
	}
}
