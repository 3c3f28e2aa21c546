package shadower

import (
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/ring"
)

// A Tap takes what is said in one flow. Its methods are called from one thread at a
// time, and none waits.
type Tap struct {
	outlet     *outlet
	play       *Play
	run        uint64 // the play's, as the flow was opened
	slot, turn uint32
}

// Take takes a copy of bytes that the client or the primary has sent, or of its FIN.
// False says that the shadow of the flow is over: it is the last call then.
func (t *Tap) Take(from shadow.Party, bytes []byte, fin bool, at time.Time) bool {
	if t.over() {
		t.end(ring.Record{Kind: kindGone})
		return false
	}
	taken := len(bytes) == 0 || t.outlet.put(ring.Record{Kind: kindBytes, Of: uint8(from), Slot: t.slot, Turn: t.turn, At: at, Body: bytes})
	if taken && fin {
		taken = t.outlet.put(ring.Record{Kind: kindFIN, Of: uint8(from), Slot: t.slot, Turn: t.turn, At: at})
	}
	if !taken {
		t.end(ring.Record{Kind: kindLost})
	}
	return taken
}

// Secure says that what follows is said inside TLS, and what became of the handshake with
// the primary. False is as of Take.
func (t *Tap) Secure(h shadow.Handshake, at time.Time) bool {
	r := secured(h)
	r.At = at
	return t.say(r)
}

// Opaque says why nothing that follows can be seen. False is as of Take.
func (t *Tap) Opaque(reason string, at time.Time) bool { return t.say(opaque(reason, at)) }

// say tells what is not of the flow's bytes.
func (t *Tap) say(r ring.Record) bool {
	if t.over() {
		t.end(ring.Record{Kind: kindGone})
		return false
	}
	r.Slot, r.Turn = t.slot, t.turn
	if !t.outlet.put(r) {
		t.end(ring.Record{Kind: kindLost})
		return false
	}
	return true
}

// over says whether nobody wants to hear more of the flow. With its process it is lost.
func (t *Tap) over() bool {
	return t.play.run.Load() != t.run || t.outlet.over(t.slot, t.turn)
}

// End says that the flow is over: whole, or cut off by the client or on the way.
func (t *Tap) End(how shadow.End, at time.Time) {
	of := endReset
	if how == shadow.Closed {
		of = endClosed
	}
	t.end(ring.Record{Kind: kindEnded, Of: of, At: at})
}

// EndByPrimary says that the primary has ended the flow, as by a reset.
func (t *Tap) EndByPrimary(_ shadow.End, at time.Time) {
	t.end(ring.Record{Kind: kindEnded, Of: endPrimaryReset, At: at})
}

func (t *Tap) end(r ring.Record) {
	if t.outlet.dead.Load() {
		return // its process has counted it, or the account has
	}
	r.Slot, r.Turn = t.slot, t.turn
	t.outlet.end(r)
}
