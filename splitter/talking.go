package splitter

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// datagrams is what is asked of the kernel about a socket of UDP: whether there
// is something to take, as long as there is.
const datagrams = unix.EPOLLIN

// associate has a flow's datagrams go to a backend from now on.
func (w *worker) associate(f *flow, to *target) {
	f.target = to
	socket, errno := w.edge.associate(to.endpoint)
	if errno == 0 {
		f.sockets[backend] = int32(socket)
		errno = w.poller.add(socket, datagrams, f.ticket(ofBackend))
	}
	if isPortless(errno) {
		w.noPort()
	}
	if errno != 0 {
		w.refused(f, errno)
		return
	}
	w.portPause = 0
	w.activate(f, true)
	patience := f.choice.proxy.ConnectTimeout
	if patience <= 0 {
		patience = refusalPatience
	}
	t := f.talk
	t.tried, t.newest, t.last = w.now, w.now, client
	f.times.connect = w.now + ticks(patience)
	f.times.first = 0
	if timeout := f.choice.proxy.FirstByteTimeout; timeout > 0 {
		f.times.first = w.now + ticks(timeout)
	}
	w.appoint(f)
	if t.holds {
		w.sendAgain(f)
	}
}

// activate counts the flow as open at its target, or not any more. It is from the
// first datagram on: what waits for an answer has to be waited for, and ended, too.
func (w *worker) activate(f *flow, on bool) {
	if !f.udp() || f.talk.active == on {
		return
	}
	f.talk.active = on
	if on {
		w.tally(f).active.Add(1)
	} else {
		w.tally(f).active.Add(^uint64(0))
	}
}

// pass sends the flow's backend datagrams of the inbox, from first to before last,
// and says how many it is done with: all, unless the flow ends.
func (w *worker) pass(f *flow, first, last int) (done int) {
	defer w.guard(f)
	t := f.talk
	t.newest, t.last = w.now, client
	switch {
	case t.fresh && f.heard:
		w.settleIn(f)
	case t.fresh:
		w.freshen(f)
	}
	w.inbox.unaddressed(first, last)
	for at := first; at < last; {
		upTo := last
		if f.stage == connecting && f.mayTurn() {
			upTo = at + 1 // behind others the kernel would not tell of a refusal
		}
		n, errno := w.sendOn(f, at, upTo)
		at += n
		switch {
		case errno == 0:
		case isDropped(errno), isHosts(errno) && (f.stage != connecting || !f.mayTurn()):
			w.relay.faults.datagrams.Add(1)
			at++
		case !w.declined(f, errno):
			return at - first // it has not been sent
		}
	}
	return last - first
}

// sendOn sends the flow's backend datagrams of the inbox, and says how many have
// gone. News that the way takes no more than so much concern what was sent before:
// the kernel makes smaller packets of what is sent then.
func (w *worker) sendOn(f *flow, first, last int) (int, syscall.Errno) {
	n, errno := w.edge.give(int(f.sockets[backend]), w.inbox, first, last)
	if errno == unix.EMSGSIZE {
		n, errno = w.edge.give(int(f.sockets[backend]), w.inbox, first, last)
	}
	for i := first; i < first+n; i++ {
		w.retain(f, i)
		w.counted(f, client, len(w.inbox.bytes(i)))
	}
	return n, errno
}

// retain keeps a copy of the first datagram for the case that it is refused.
func (w *worker) retain(f *flow, i int) {
	t := f.talk
	bytes := w.inbox.bytes(i)
	if f.spoken || !f.mayTurn() || w.retained+len(bytes) > retainedMost {
		return
	}
	t.retained, t.holds = append(t.retained[:0], bytes...), true
	w.retained += len(bytes)
}

// forgetFirst gives up the copy of the first datagram, and its room unless that is
// small.
func (w *worker) forgetFirst(t *talking) {
	if !t.holds {
		return
	}
	w.retained -= len(t.retained)
	t.retained, t.holds = t.retained[:0], false
	if cap(t.retained) > retainedKept {
		t.retained = nil
	}
}

// sendAgain sends the first datagram to the backend that is there instead of the
// one that has refused it.
func (w *worker) sendAgain(f *flow) {
	t := f.talk
	errno := w.edge.say(int(f.sockets[backend]), t.retained)
	n := len(t.retained)
	if !f.mayTurn() {
		w.forgetFirst(t)
	}
	if errno == 0 {
		w.counted(f, client, n)
	} else {
		w.relay.faults.datagrams.Add(1)
	}
}

// counted counts a datagram that has been sent to a side's other one.
func (w *worker) counted(f *flow, from side, bytes int) {
	f.talk.moved[from]++
	if from == client {
		f.spoken = true
	}
	w.count(f, from, outcome{n: bytes})
}

// declined goes on after the backend's host has said that nobody takes what the
// flow sends, and says whether the flow goes on.
func (w *worker) declined(f *flow, cause syscall.Errno) bool {
	switch {
	case f.heard:
		f.stream.lost[backend] = true
		w.conclude(f, w.edge.close, endReset)
		return false
	case f.stage == relaying && f.mayTurn():
		w.forsake(f)
	}
	w.refused(f, cause)
	return f.stage != vacant
}

// forsake has a flow be connecting again: its backend has refused it after a while
// of silence, and another is to have it.
func (w *worker) forsake(f *flow) {
	w.tellEnd(f, endRefused)
	f.stage, f.talk.moved = connecting, [2]uint64{}
	if f.line != nil {
		f.line.accepted, f.line.bytes = time.Now(), [2]uint64{}
	}
}

// settled says that the flow is its target's, because that has answered, or
// refused nothing in time.
func (w *worker) settled(f *flow) {
	f.stage = relaying
	w.forgetFirst(f.talk)
	w.tally(f).flows.Add(1)
	f.times.connect = 0
	f.times.idle = w.now + ticks(w.silence(f))
	w.appoint(f)
	w.tellBegin(f)
}

// silence is how long the flow may be silent.
func (w *worker) silence(f *flow) time.Duration {
	t := f.talk
	s := silenceOf(f.choice.udpTimeout, f.heard, time.Duration(t.newest-t.tried)*time.Millisecond)
	if w.draining && t.last == backend {
		return min(s, silenceDraining)
	}
	return s
}

// hurry has a flow looked at sooner because the worker drains.
func (w *worker) hurry(f *flow) {
	if at := f.talk.newest + ticks(w.silence(f)); f.times.idle > at {
		f.times.idle = max(at, w.now+1)
		w.appoint(f)
	}
}

// replied takes a batch of what a flow's backend has sent to its client.
func (w *worker) replied(f *flow) {
	if w.waiting == batchMost {
		w.flush()
	}
	n, errno := w.edge.take(int(f.sockets[backend]), w.outbox, w.waiting)
	switch {
	case n > 0:
		w.answered(f)
	case isDropped(errno): // or of the size that the way takes, see sendOn
		return
	default:
		w.declined(f, errno)
		return
	}
	t, said := f.talk, f.talk.front.address.Addr().IsUnspecified()
	r := reply{socket: w.listeners[t.listener].socket, flow: f.ticket(ofClient), tally: w.tally(f)}
	for i := w.waiting; i < w.waiting+n; i++ {
		w.replies[i] = r
		if w.outbox.cut(i) {
			w.replies[i].socket = -1
			continue
		}
		w.outbox.reply(i, &t.talker, said)
	}
	w.waiting += n
}

// answered notes that the backend has said something.
func (w *worker) answered(f *flow) {
	f.talk.newest, f.talk.last = w.now, backend
	f.target.circuit.spoke(w.now)
	if f.talk.fresh {
		w.freshen(f)
	}
	if !f.heard {
		f.heard = true
		w.served(f)
	}
	if f.stage == connecting {
		w.settled(f)
	}
}

// flush sends the replies that wait.
func (w *worker) flush() {
	for first := 0; first < w.waiting; {
		last := first + 1
		for last < w.waiting && w.replies[last].socket == w.replies[first].socket {
			last++
		}
		w.answer(first, last)
		first = last
	}
	w.outbox.empty(w.waiting, false)
	w.waiting = 0
}

// answer sends replies that leave by one socket. What is not sent is lost, as on
// any network: who waits for one client would keep the others waiting.
func (w *worker) answer(first, last int) {
	if w.replies[first].socket < 0 {
		w.relay.faults.datagrams.Add(uint64(last - first))
		return
	}
	for first < last {
		n, errno := w.edge.give(w.replies[first].socket, w.outbox, first, last)
		for i := first; i < first+n; i++ {
			w.gave(w.replies[i], len(w.outbox.bytes(i)))
		}
		first += n
		if errno != 0 {
			w.relay.faults.datagrams.Add(1)
			first++
		}
	}
}

// gave counts a reply that was sent, also where its flow has ended meanwhile.
func (w *worker) gave(r reply, bytes int) {
	if f := w.flows.find(r.flow); f != nil {
		w.counted(f, backend, bytes)
		return
	}
	r.tally.bytesOut.Add(uint64(bytes))
}

// expiredTalk does what a time of a flow of UDP asks for.
func (w *worker) expiredTalk(f *flow) {
	switch t := f.talk; {
	case due(f.times.first, w.now) && !f.heard:
		w.unheard(f)
		return
	case due(f.times.connect, w.now) && t.leaves && !t.front.choice.Load().takes(f):
		w.conclude(f, w.edge.close, endUnanswered)
		return
	case due(f.times.connect, w.now):
		w.settled(f)
		return
	case due(f.times.idle, w.now):
		quiet := w.now - t.newest
		left := ticks(w.silence(f)) - quiet
		if left <= 0 {
			w.conclude(f, w.edge.close, f.endOfSilence())
			return
		}
		f.times.idle = w.now + left
	}
	if due(f.times.first, w.now) {
		f.times.first = 0
	}
	w.appoint(f)
}

// endOfSilence is how a flow of UDP ends by itself.
func (f *flow) endOfSilence() ending {
	if f.heard {
		return endIdle
	}
	return endUnanswered
}

// freeTalk takes a flow of UDP from who takes no flows any more, and says whether
// it did. With dead it is an address that health checks have found so: all of its
// flows end, as in mode kernel, because a client that goes on asking would keep
// its flow there. Else those alone that have had no answer: those that may yet
// get one end when its time is over, so that no question loses its answer.
func (w *worker) freeTalk(f *flow, dead bool) bool {
	switch {
	case dead && f.stage == connecting && f.primary != nil:
		w.takeBack(f, traffic.ButDown)
	case dead:
		w.conclude(f, w.edge.close, endKilled)
	case f.heard:
		return false
	case f.stage == connecting:
		f.talk.leaves = true
	default:
		w.conclude(f, w.edge.close, endUnanswered)
	}
	return true
}

// part takes leave of a flow of UDP that ends.
func (w *worker) part(f *flow) {
	t := f.talk
	w.forgetFirst(t)
	delete(w.places, t.talker)
	w.relay.owners.release(t.talker)
	t.front.flows.Add(-1)
	w.relay.crowd.open.Add(-1)
	w.settleIn(f)
	if l := w.listeners[t.listener].leave; l != nil {
		l.look(len(t.front.sockets))
	}
	t.front = nil
	if len(w.idle) < talksKept {
		w.idle = append(w.idle, t)
	}
}

const (
	// talksKept is how many of flows that have ended are kept for those that come.
	talksKept = 1024
	// retainedKept is how much room for a first datagram a flow keeps.
	retainedKept = 2048
)
