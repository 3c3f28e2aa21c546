package splitter

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// filesOfTalk is how many files a flow of UDP has.
	filesOfTalk = 1
	// retainedMost bounds the memory for first datagrams of a worker's flows that
	// may have to be sent once more.
	retainedMost = 4 << 20
)

// talks are what a worker has for flows of UDP, once it has a front of UDP.
type talks struct {
	places   map[talker]int32 // of the flows, in the slab
	idle     []*talking
	retained int // bytes

	newcomers queue         // see crowd.go
	portless  int64         // no local port is asked for before this tick
	portPause time.Duration // of the last time that there was none, 0 since there was one

	inbox   *batch
	filled  int // places of inbox that the last take has filled
	talkers [batchMost]talker

	outbox  *batch
	waiting int // replies in outbox
	replies [batchMost]reply
}

// reply is what is known of a datagram that waits to be sent to its client.
type reply struct {
	socket int // that it leaves by
	flow   ticket
	tally  *tally
}

// prepare makes ready for UDP.
func (t *talks) prepare() {
	if t.inbox != nil {
		return
	}
	t.places = map[talker]int32{}
	t.inbox, t.outbox = newBatch(batchMost, datagramRoom), newBatch(batchMost, datagramRoom)
	t.inbox.empty(batchMost, true)
	t.outbox.empty(batchMost, false)
}

// receive takes a batch of what waits at a front's socket to its flows, and says
// how many there were. The kernel tells of the rest again.
func (w *worker) receive(place int32) int {
	l := &w.listeners[place]
	w.inbox.empty(w.filled, true)
	n, _ := w.edge.take(l.socket, w.inbox, 0) // a socket that speaks with all has no errors of its own
	w.filled = n
	for i := range n {
		w.talkers[i] = w.talkerOf(l.front.address, i)
	}
	for first := 0; first < n; {
		last := first + 1
		for last < n && w.talkers[last] == w.talkers[first] {
			last++
		}
		w.deliver(place, w.talkers[first], first, last)
		first = last
	}
	return n
}

// talkerOf says whose a datagram is; the zero one of such as cannot be answered:
// it was cut, asked many hosts, has no port to answer to, or pretends to come from
// where it goes, which would answer itself for ever.
func (w *worker) talkerOf(at spot, i int) talker {
	service := at.Addr()
	if at.Addr().IsUnspecified() {
		asked, ok := w.inbox.asked(i)
		if !ok {
			return talker{}
		}
		service = asked
	}
	from, scope := w.inbox.from(i)
	if w.inbox.cut(i) || from.Port() == 0 || from == netip.AddrPortFrom(service, at.Port()) {
		return talker{}
	}
	return newTalker(from, netip.AddrPortFrom(service, at.Port()), scope)
}

// deliver takes datagrams of one talker, those of the inbox from first to before
// last, to its flow.
func (w *worker) deliver(place int32, t talker, first, last int) {
	if t == (talker{}) {
		w.relay.faults.datagrams.Add(uint64(last - first))
		return
	}
	for renewed := false; first < last; {
		f := w.flowOf(place, t, first, last)
		if f == nil {
			return
		}
		done := w.pass(f, first, last)
		if done == 0 && renewed { // not because of what was sent before
			w.relay.faults.datagrams.Add(1)
			done = 1
		}
		renewed = done == 0
		first += done
	}
}

// flowOf is the talker's flow, a new one if need be; nil where there is none, and
// the datagrams are somebody else's or nobody's.
func (w *worker) flowOf(place int32, t talker, first, last int) *flow {
	if at, ok := w.places[t]; ok {
		f := w.flows.at(at)
		if !w.avoided(f) {
			return f
		}
		w.visit(f, func(f *flow) { w.abort(f, endUnanswered) })
	}
	at, begins := w.beginsAt(place)
	if !begins {
		if owner, open := w.relay.owners.of(t); open && owner != w.number {
			w.handOver(w.relay.workers[owner], w.listeners[place].front, t, first, last)
		}
		return nil // else it is as where nobody listens
	}
	front := w.listeners[at].front
	if owner := w.relay.owners.claim(t, w.number); owner != w.number {
		w.handOver(w.relay.workers[owner], front, t, first, last)
		return nil
	}
	return w.begin(front, at, t)
}

// beginsAt is where flows begin of what comes to the listener at a place: there, or
// at that of the front that covers its address while its own goes, or nowhere.
func (w *worker) beginsAt(place int32) (int32, bool) {
	if l := &w.listeners[place]; l.leave != nil {
		if l.cover == nil {
			return 0, false
		}
		place = w.placeOf(l.cover)
	}
	return place, place >= 0 && w.listeners[place].leave == nil
}

// avoided says that a flow waits in vain: its backend has never answered it, and
// by now it is known to refuse others. Refusals are seldom sent more often than
// once a second (icmp_ratelimit in Documentation/networking/ip-sysctl.rst).
func (w *worker) avoided(f *flow) bool {
	return f.mayTurn() && f.target.circuit != nil && f.target.circuit.open.Load()
}

// placeOf is where the worker has its socket of a front.
func (w *worker) placeOf(f *front) int32 {
	return int32(slices.IndexFunc(w.listeners, func(l listener) bool { return l.front == f }))
}

// begin makes a flow of a talker that is the worker's, unless there are too many.
func (w *worker) begin(front *front, place int32, t talker) *flow {
	c := front.choice.Load()
	from := t.clientAddress()
	counted, ok := w.admits(c, from.Addr())
	if !ok {
		w.relay.owners.release(t)
		return nil
	}
	f := w.take(filesOfTalk)
	f.stage, f.choice, f.client, f.counted = connecting, c, from, counted.IsValid()
	f.sockets = [2]int32{client: -1, backend: -1}
	f.talk = w.spareTalk()
	*f.talk = talking{talker: t, front: front, listener: place, retained: f.talk.retained[:0]}
	front.flows.Add(1)
	w.relay.crowd.open.Add(1)
	w.places[t] = f.place
	w.freshen(f)
	defer w.guard(f)
	w.note(f)
	first, why := w.choose(f)
	f.because(why)
	w.try(f, first)
	if f.stage == vacant {
		return nil // nobody can be reached
	}
	return f
}

func (w *worker) spareTalk() *talking {
	n := len(w.idle)
	if n == 0 {
		return &talking{}
	}
	t := w.idle[n-1]
	w.idle = w.idle[:n-1]
	return t
}
