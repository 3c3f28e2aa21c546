package splitter

import (
	"fmt"
	"math/rand/v2"
)

// The oracle of a stream is trivial: what one peer sends is what the other
// reads, then the end that the first one chose. The kernel between them is
// modelled: queues of bounded size, news that come late and together, and an
// RST that is told once.

const (
	modelRoom = 8  // of the buffer, and of the pipe
	modelWire = 24 // of a socket's queue
)

// socket is one side's, as the relay and its peer see it.
type modelSocket struct {
	inbox   int  // bytes that the relay can read
	fin     bool // after them
	dead    bool // the peer has reset it
	gone    bool // or the kernel has given it up
	untold  bool // and the relay has not been told by an error
	outbox  int  // bytes that the peer can read
	finSent bool // after them
	wanting bool // the relay has found no room
	news    news // not heard yet

	sent, got     int  // by the peer
	finished      bool // the peer has read the FIN
	passed, taken int  // bytes that the relay has written, and read
}

// model is a stream between two peers, and what happened, for people.
type model struct {
	stream  stream
	sockets [2]modelSocket
	ahead   int // bytes of the relay's own that the backend gets before the client's
	tapped  bool
	tried   tried
	over    act // actFinish, actAbort
	r       *rand.Rand
	trace   []string
	err     error
}

func (m *model) note(format string, arguments ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, arguments...))
}

func (m *model) fail(format string, arguments ...any) {
	if m.err == nil {
		m.err = fmt.Errorf(format, arguments...)
	}
}

// act is one thing that a peer does.
func (m *model) peer(s side) {
	k := &m.sockets[s]
	if k.dead {
		return
	}
	switch m.r.IntN(40) {
	case 0:
		if !k.fin {
			k.fin = true
			k.news.readable, k.news.ending = true, true
			m.note("%d sends its FIN", s)
		}
	case 1:
		if m.r.IntN(8) == 0 {
			m.tried.reset(m.stream, s)
			k.dead, k.untold, k.gone = true, true, m.r.IntN(2) == 0
			k.news = news{readable: true, writable: true, ending: true, reset: true}
			m.note("%d resets, or is gone: %v", s, k.gone)
		}
	default:
		if m.r.IntN(2) == 0 {
			m.read(s)
		} else if !k.fin {
			n := min(1+m.r.IntN(2*modelRoom), modelWire-k.inbox)
			k.inbox += n
			k.sent += n
			k.news.readable = k.news.readable || n > 0
			m.note("%d sends %d", s, n)
		}
	}
}

// read has a peer read some or all.
func (m *model) read(s side) {
	k := &m.sockets[s]
	n := k.outbox
	if n > 0 {
		n = 1 + m.r.IntN(n)
	}
	k.outbox -= n
	k.got += n
	k.finished = k.finished || k.finSent && k.outbox == 0
	if k.wanting && n > 0 {
		k.wanting, k.news.writable = false, true
	}
	m.note("%d reads %d", s, n)
}

// hear tells the stream all there is of a side.
func (m *model) hear(s side) {
	k := &m.sockets[s]
	if k.news == (news{}) {
		return
	}
	m.note("news of %d: %+v", s, k.news)
	m.stream = m.stream.hear(s, k.news)
	k.news = news{}
}

// step has the stream do one thing; false when it has nothing to do.
func (m *model) step() bool {
	from, a := m.stream.next()
	switch a { //nolint:exhaustive // the rest are performed
	case actNone:
		return false
	case actFinish, actAbort:
		m.over = a
		m.note("over: %d", a)
		return false
	}
	o := m.perform(from, a)
	m.tried.act(m.stream, from, a, o)
	m.note("act %d on %d: %+v", a, from, o)
	m.stream = m.stream.after(from, a, o)
	if held := m.stream.ways[from].held; held < 0 || held > modelRoom {
		m.fail("a way holds %d bytes, the buffer has %d", held, modelRoom)
	}
	return true
}

func (m *model) perform(from side, a act) outcome {
	source, sink := &m.sockets[from], &m.sockets[from.other()]
	if from == client && (a == actRecv || a == actDraw || a == actShut) && sink.passed < m.ahead {
		m.fail("act %d of the client before all that comes first has been sent", a)
	}
	switch a {
	case actDraw:
		if m.r.IntN(10) == 0 {
			return outcome{kind: unable}
		}
		return m.recv(source)
	case actRecv:
		return m.recv(source)
	case actPour:
		if m.r.IntN(10) == 0 {
			return outcome{kind: unable}
		}
		return m.send(sink, int(m.stream.ways[from].held), true)
	case actSend:
		return m.send(sink, int(m.stream.ways[from].held), false)
	case actShut:
		if sink.finSent {
			m.fail("a second FIN for %d", from.other())
		}
		if source.taken != source.sent || !source.fin {
			m.fail("a FIN for %d before the end of %d", from.other(), from)
		}
		if sink.dead {
			return outcome{kind: failed}
		}
		sink.finSent = true
	case actNone, actFinish, actAbort:
		m.fail("act %d is none of the kernel's", a)
	}
	return outcome{}
}

func (m *model) recv(k *modelSocket) outcome {
	switch {
	case k.inbox > 0:
		n := min(k.inbox, modelRoom)
		k.inbox -= n
		k.taken += n
		return outcome{kind: moved, n: n, full: n == modelRoom}
	case k.untold:
		k.untold = false
		return outcome{kind: failed, gone: k.gone}
	case k.dead, k.fin:
		return outcome{kind: ended}
	}
	return outcome{kind: again}
}

func (m *model) send(k *modelSocket, held int, pour bool) outcome {
	if k.dead {
		told := k.untold && k.gone
		k.untold = false
		return outcome{kind: failed, gone: told}
	}
	n := min(held, modelWire-k.outbox)
	if n < held {
		k.wanting = true
	}
	if pour && n > 1 && m.r.IntN(3) == 0 {
		n = 1 + m.r.IntN(n-1) // a page at a time
	}
	if n == 0 {
		return outcome{kind: again}
	}
	k.outbox += n
	k.passed += n
	return outcome{kind: moved, n: n}
}

// calmDown lets everything happen that has been begun: the peers read all, all
// news are heard, the stream does what it can.
func (m *model) calmDown() {
	for busy := true; busy && m.over == actNone; {
		busy = false
		for s := range m.sockets {
			k := &m.sockets[s]
			if !k.dead && k.outbox > 0 {
				m.read(side(s))
				busy = true
			}
			if k.news != (news{}) {
				m.hear(side(s))
				busy = true
			}
		}
		for m.step() {
			busy = true
		}
	}
	for s := range m.sockets {
		if k := &m.sockets[s]; !k.dead { // what has been written still arrives
			k.got += k.outbox
			k.outbox = 0
			k.finished = k.finSent || m.over == actFinish
		}
	}
}

// judge compares with the oracle.
func (m *model) judge() {
	a, b := &m.sockets[client], &m.sockets[backend]
	reset := a.dead || b.dead
	want := actNone
	switch {
	case a.fin && b.fin && (!reset || m.over == actFinish): // an RST may come too late
		want = actFinish
	case reset:
		want = actAbort
	}
	if m.over != want {
		m.fail("the stream ends with %d, want %d", m.over, want)
	}
	for s := range m.sockets {
		m.judgeLoss(side(s))
		from, to := &m.sockets[s], &m.sockets[1-s]
		sent := from.sent
		if side(s) == client {
			sent += m.ahead
		}
		switch {
		case to.dead: // it reads nothing any more
		case from.dead || !reset:
			if to.got != sent {
				m.fail("%d has read %d bytes, %d has sent %d", 1-s, to.got, s, sent)
			}
		}
		if to.passed > sent || !to.dead && to.got != to.passed {
			m.fail("%d has read %d of %d bytes, %d has sent %d", 1-s, to.got, to.passed, s, sent)
		}
		if !reset && to.finished != from.fin {
			m.fail("%d has read a FIN: %v, %d has sent one: %v", 1-s, to.finished, s, from.fin)
		}
	}
}

// untap ends a tee at some time: what was copied for it may be spliced.
func (m *model) untap() {
	if m.tapped && m.r.IntN(20) == 0 {
		m.tapped = false
		m.stream = m.stream.copied(false)
		m.tried["a tee ends"]++
		m.note("the tee ends")
	}
}

// judgeLoss compares how the stream ends of which this side alone is lost.
func (m *model) judgeLoss(s side) {
	k := &m.sockets[s]
	if m.over != actAbort || !k.dead || m.sockets[s.other()].dead {
		return
	}
	if !m.stream.told[s] { // as worker.broken asks
		m.stream = m.stream.learn(s, outcome{gone: k.untold && k.gone})
	}
	want := endReset
	if k.gone {
		want = endGone
	}
	if got := m.stream.broken(); got != want || m.stream.first() != s {
		m.fail("%d is lost, which ends as %q by %d, want %q", s, got, m.stream.first(), want)
	}
}

// play is one flow's life; it returns the number of steps.
func (m *model) play() int {
	steps := 20 + m.r.IntN(300)
	for range steps {
		switch s := side(m.r.IntN(2)); m.r.IntN(8) {
		case 0, 1:
			m.peer(s)
			m.untap()
		case 2:
			m.hear(s)
		default:
			m.step()
		}
		if m.over != actNone || m.err != nil {
			break
		}
	}
	m.calmDown()
	m.judge()
	return len(m.trace)
}

func newModel(seed uint64) *model {
	m := &model{r: rand.New(rand.NewPCG(seed, 11)), tried: tried{}}
	m.stream = opened(seed%3 == 0)
	if m.tapped = seed%3 == 1; m.tapped {
		m.stream = m.stream.copied(true)
	}
	if seed%4 == 1 {
		m.ahead = 1 + m.r.IntN(modelRoom)
		m.stream = m.stream.preceded(m.ahead)
	}
	return m
}
