package splitter

import (
	"net/netip"
	"time"
)

// flow is one client connection and the backend connection that serves it, or one
// of UDP (talk.go). It belongs to one worker from its beginning to its end.
type flow struct {
	place  int32 // in the slab
	turn   int32
	stage  stage
	paused bool // it is in the worker's list of flows to go on with
	spoken bool // the backend has been sent something
	prompt bool // and gets small writes at once
	heard  bool // it has sent something
	halved bool // one side has ended, and the timeout for that is set

	counted  bool  // the gate counts it as the client's
	sampled  bool  // the tee is to be told when the primary answers
	preamble uint8 // bytes of the PROXY header that the backend has not got

	sockets [2]int32 // by side; the backend's once it is tried
	stream  stream
	rests   [2]rest // what a way holds, where that is not in the worker's buffer
	pipes   [2]*pipe

	choice  *choice
	target  *target // that is tried, or serves
	others  others  // of its backend, that may be tried instead
	primary *target // and of the primary; nil: that is the backend
	client  netip.AddrPort
	proxied *proxied // nil: the client is who has connected
	times   times
	line    *line // what the flow log wants; nil: nothing
	tap     Tap   // takes its chunks; nil: nobody does
	// carriage is there while somebody else carries the flow: its stream does nothing then.
	carriage *carriage
	talk     *talking // what a flow of UDP has besides; nil: it is one of TCP, or a probe
}

// gated is whose flow the gate has counted, if it did.
func (f *flow) gated() netip.Addr {
	if !f.counted {
		return netip.Addr{}
	}
	return f.client.Addr()
}

// rest is what a sink has not taken of what was read.
type rest struct {
	bytes []byte // nil: nothing
	gone  int    // so many of them have been taken since
}

// stage is where a flow is in its life.
type stage uint8

const (
	vacant     stage = iota // no flow
	awaiting                // a PROXY header is to come, see header.go
	connecting              // the target is tried
	relaying
	probing // without a client, see probe.go
)

// times are the ticks at which something is due, 0 for never.
type times struct {
	connect int64 // the target has had its time, or the PROXY header
	lasting int64 // the flow is no short one
	idle    int64 // nothing may have moved for too long
	first   int64 // the backend ought to have sent something
	cut     int64 // the relay stops, or a side is reset
	words   int64 // last words may have gone out
}

// next is the earliest of the times, 0 for never.
func (t times) next() int64 {
	next := int64(0)
	for _, at := range [...]int64{t.connect, t.lasting, t.idle, t.first, t.cut, t.words} {
		if at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	return next
}

// patience is how long the flow may be silent, 0 for ever.
func (f *flow) patience() time.Duration {
	p := f.choice.proxy
	if f.halved && (p.IdleTimeout == 0 || p.HalfClosedTimeout < p.IdleTimeout) {
		return p.HalfClosedTimeout
	}
	return p.IdleTimeout
}

// lastingAfter is how long the flow lives before it is no short one.
func (f *flow) lastingAfter() time.Duration {
	if patience := f.choice.proxy.PeerTimeout; patience > 0 {
		return min(patience, lastingAfter)
	}
	return lastingAfter
}

// due says whether a time has come.
func due(at, now int64) bool { return at != 0 && at <= now }

const (
	// lastingAfter is how long a flow lives before it is worth the calls that
	// find a dead backend: short ones are most, and end by themselves.
	lastingAfter = 10 * time.Second
	// lastWords is how long the other side may take to read what a side sent
	// before its reset.
	lastWords = 10 * time.Second
	// wordsGrain is the time between two looks at whether it has.
	wordsGrain = 10 * time.Millisecond
	// idleGrain is the least time between two looks at a flow's idleness; the
	// kernel tells it in its ticks, which are 10 ms at most.
	idleGrain = 10 * time.Millisecond
)

// ticks counts a duration in those of the wheel, milliseconds, and never less
// than it takes.
func ticks(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }
