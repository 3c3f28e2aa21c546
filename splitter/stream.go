package splitter

// side is one end of a flow. A way is named by the side that sends on it.
type side uint8

const (
	client  side = 0
	backend side = 1
)

func (s side) other() side { return 1 - s }

// act is what a stream wants done next on one of its ways.
type act uint8

const (
	actNone act = iota
	actRecv     // take bytes from the source
	actSend     // give the bytes that are held to the sink
	actDraw     // take bytes from the source into a pipe
	actPour     // give the bytes in the pipe to the sink
	actShut     // pass the source's FIN on to the sink
	// These two concern both ways and are the last.
	actFinish // close both sides: all has been passed on
	actAbort  // reset both sides
)

// outcome is what became of an act.
type outcome struct {
	kind outcomeKind
	n    int  // bytes that moved, with moved
	full bool // with actRecv, actDraw and moved: there may have been no room for more
	gone bool // with failed: it was not reset, the kernel has given it up
}

type outcomeKind uint8

const (
	moved  outcomeKind = iota
	again              // the socket cannot take or give any more now
	ended              // the source has sent its FIN
	failed             // the side that was asked is reset
	unable             // there is no pipe to be had, or nothing can be spliced
)

// news is what the kernel tells of one side, as in epoll_ctl(2).
type news struct {
	readable bool // EPOLLIN
	writable bool // EPOLLOUT
	ending   bool // EPOLLRDHUP, EPOLLHUP: its FIN has come, or an RST
	reset    bool // EPOLLERR
	urgent   bool // EPOLLPRI: urgent data, at which the kernel stops a read
}

const (
	// streaming is how many full reads in a row make a way splice, and calm how
	// many small splices in a row make it copy again: HAProxy's rule
	// (src/stconn.c, CF_STREAMER), which it has for reads of 16 KiB.
	streaming = 2
	calm      = 3
	// scarce is how many full reads in a row make a way splice that found no pipe
	// before: pipes come back, but not at once.
	scarce = 64
	// smallSplice is what is cheaper copied.
	smallSplice = 16 << 10
)

// way is one direction of a flow. It takes bytes only when it believes that the
// sink has room, so that it never holds more than it took at once.
type way struct {
	held     int32 // bytes taken from the source that the sink has not got
	readable bool  // the source may have something: bytes, an end, an error
	writable bool  // the sink may take something
	ending   bool  // an end has been announced: after few bytes it is still to come
	marked   bool  // urgent data has come: after few bytes there may be more
	ended    bool  // the source's FIN has been read
	shut     bool  // and passed on
	void     bool  // the sink is reset: nothing is taken any more
	splice   bool  // bytes go through a pipe
	copyOnly bool  // never
	lacking  bool  // there was no pipe for it when it wanted one
	streak   uint8 // full reads or small splices in a row
}

func (w way) next() act {
	switch {
	case w.void || w.shut:
		return actNone
	case w.held > 0:
		return w.give()
	case w.ended:
		return actShut
	case w.readable && w.writable && w.splice:
		return actDraw
	case w.readable && w.writable:
		return actRecv
	}
	return actNone
}

// give is how what is held goes on, if the sink takes it.
func (w way) give() act {
	switch {
	case !w.writable:
		return actNone
	case w.splice:
		return actPour
	}
	return actSend
}

// took is w after an actRecv or actDraw.
func (w way) took(o outcome) way {
	switch o.kind {
	case moved:
		w.held = int32(o.n)
		w.lacking = w.lacking && !w.splice
		return w.judge(o)
	case again:
		w.readable = false
	case unable:
		w = w.copying()
	case ended, failed:
		w.readable, w.ended = false, true
	}
	return w
}

// judge learns from how much came at once: whether there is more to come, and
// whether the source streams.
func (w way) judge(o outcome) way {
	counts := o.full
	if w.splice {
		counts = o.n < smallSplice
	}
	if counts {
		w.streak = min(w.streak+1, scarce)
	} else {
		w.streak = 0
	}
	if !o.full && !w.ending && !w.marked {
		w.readable = false // all there was: edge-triggered news will tell of more
	}
	return w
}

// gave is w after an actSend or actPour.
func (w way) gave(o outcome) way {
	switch o.kind {
	case moved:
		w.held -= int32(o.n)
		// A socket that takes a part is full. A pipe may stop between its pages.
		w.writable = w.splice || w.held == 0
	case again:
		w.writable = false
	case unable: // what is held is in no pipe any more
		w = w.copying()
	case ended, failed:
	}
	if w.held == 0 {
		w = w.turn()
	}
	return w
}

// copying is w that cannot splice for now.
func (w way) copying() way {
	w.splice, w.lacking, w.streak = false, true, 0
	return w
}

// turn changes between copy and splice, while nothing is held.
func (w way) turn() way {
	enough := uint8(streaming)
	if w.lacking {
		enough = scarce
	}
	switch {
	case w.splice && w.marked: // a splice does not get past urgent data (tcp_splice_read in net/ipv4/tcp.c)
		w.splice, w.streak = false, 0
	case w.marked:
	case w.splice && w.streak >= calm, !w.splice && !w.copyOnly && w.streak >= enough:
		w.splice, w.streak = !w.splice, 0
	}
	return w
}

// stream is the state of an open flow: what it does next follows from it, and
// what it is next follows from that and the outcome. It does nothing itself
// and knows no clock.
//
// An end is passed on when all that came before it is. An RST is passed on too,
// as soon as what the side sent before it has been: the kernel keeps that for
// the reader (tcp_reset in net/ipv4/tcp_input.c). It tells of an RST once, to
// whom asks first, and of an end of stream to whom asks next (sock_error in
// include/net/sock.h): so lost is remembered here.
type stream struct {
	ways [2]way  // by source
	lost [2]bool // the side is reset
	told [2]bool // and the kernel has said why
	gone [2]bool // which is that it has given the side up
	turn side    // whose way is asked first: not the one that took bytes last
}

// opened is the stream of two sides that are both connected.
func opened(copyOnly bool) stream {
	w := way{writable: true, copyOnly: copyOnly}
	return stream{ways: [2]way{w, w}}
}

// copied is s with bytes that may not be spliced, or may be again.
func (s stream) copied(only bool) stream {
	for from := range s.ways {
		s.ways[from].copyOnly = only
	}
	return s
}

// preceded is s when nothing has moved yet, and the backend is to get n bytes
// that are held already before those of the client.
func (s stream) preceded(n int) stream {
	s.ways[client].held = int32(n)
	return s
}

// hear takes news of a side.
func (s stream) hear(from side, n news) stream {
	in, out := &s.ways[from], &s.ways[from.other()]
	in.readable = in.readable || n.readable || n.ending
	in.ending = in.ending || n.ending
	out.writable = out.writable || n.writable
	if n.urgent {
		*in = in.mark()
	}
	if n.reset {
		return s.lose(from)
	}
	return s
}

// mark is w from which urgent data (RFC 9293, section 3.8.5) has come. It is read
// where it stands among the others and passed on like them.
func (w way) mark() way {
	w.marked = true
	if w.held == 0 {
		w = w.turn()
	}
	return w
}

// next is what is to be done. Bytes on their way come first: there is one
// buffer for all flows, which the next actRecv fills anew. Otherwise the ways
// take turns, so that a side which sends without end keeps the other waiting for
// one read.
func (s stream) next() (side, act) {
	for from := range s.ways {
		if s.lost[from] && s.ways[from].spent() {
			return client, actAbort
		}
	}
	for from := range s.ways {
		if s.ways[from].held > 0 {
			if a := s.ways[from].next(); a != actNone {
				return side(from), a
			}
		}
	}
	for _, from := range [...]side{s.turn, s.turn.other()} {
		a := s.ways[from].next()
		if a == actShut && s.ways[from.other()].shut {
			return client, actFinish
		}
		if a != actNone {
			return from, a
		}
	}
	return client, actNone
}

// spent says that nothing more can come of the source of w: an end is read
// when nothing is held.
func (w way) spent() bool { return w.void || w.ended }

// after is the stream after an act that next asked for.
func (s stream) after(from side, a act, o outcome) stream {
	w := &s.ways[from]
	switch a {
	case actRecv, actDraw:
		*w = w.took(o)
		s.turn = from.other()
		if o.kind == failed {
			s.lost[from] = true
			s = s.learn(from, o)
		}
	case actSend, actPour:
		if o.kind == moved && o.n == 0 {
			o.kind = failed // no kernel does that: it would be asked for ever
		}
		*w = w.gave(o)
		if o.kind == failed {
			s = s.lose(from.other()).learn(from.other(), o)
		}
	case actShut:
		w.shut = true
		if o.kind == failed {
			s = s.lose(from.other())
		}
	case actNone, actFinish, actAbort:
	}
	return s
}

// lose marks a side as reset that takes nothing any more. It may have had last
// words (a server that says "too large" and closes): they are read to the end.
func (s stream) lose(gone side) stream {
	s.lost[gone] = true
	in, out := &s.ways[gone], &s.ways[gone.other()]
	out.void, out.held = true, 0
	in.readable, in.ending = true, true
	return s
}

// learn takes why a side is lost.
func (s stream) learn(side side, o outcome) stream {
	s.told[side] = true
	s.gone[side] = s.gone[side] || o.gone
	return s
}

// parting says that a side is reset and the other has not had all of it.
func (s stream) parting() bool { return s.lost[client] || s.lost[backend] }

// halfClosed says that one side has ended and the other has not.
func (s stream) halfClosed() bool { return s.ways[client].shut != s.ways[backend].shut }
