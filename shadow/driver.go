package shadow

import (
	"net/netip"
	"time"
)

// Party is who says something in a shadowed flow.
type Party uint8

// The parties.
const (
	Client Party = iota
	Primary
	Candidate
)

// End is how a party came to say no more.
type End string

// The ends. A candidate alone is Refused (it could not be connected), Unsecured (a TLS
// handshake with it has failed) or TimedOut (it could not in time, or owes a reply for longer
// than its patience lasts).
const (
	Open      End = ""
	Closed    End = "closed" // FIN
	Reset     End = "reset"
	Refused   End = "refused"
	Unsecured End = "no TLS with it"
	TimedOut  End = "timed out"
)

// An Event is something that a party of a flow did: it said bytes, or said that it
// says no more, or both in this order. Of client and primary the events come as
// the relay saw them: what answers something comes after it. Neither bytes nor an end
// of the candidate says that it is connected: what was to be sent to it before goes now.
type Event struct {
	From  Party
	Bytes []byte // lent until Hear returns
	End   End
	// TLS, of the primary or the candidate, says that a handshake with it has ended: what
	// comes after is said inside, or, where Failed, its End. Of the primary it is the one
	// of the flow itself. It comes without bytes.
	TLS *Handshake
	// Opaque says why nothing of what client and primary say from here on can be seen, as
	// inside a TLS that nobody stands in for. It comes without bytes, and behind it only
	// ends do.
	Opaque string
	At     time.Time
}

// A Session is what a driver is told of its flow before the first event.
type Session struct {
	// Client and Service are the ends that the client knows.
	Client, Service netip.AddrPort
	// Keep is how many bytes of one unit or reply a driver may keep to compare.
	// Beyond it a driver may hash, or count, or give up with Truncated.
	Keep int
	// Control says that it is the primary that is asked a second time, to learn
	// what differs by itself: nothing may be sent that changes anything, nor anything
	// before the primary has answered it to its own client.
	Control bool
	// Again, with Control, says whether one more exchange of an endpoint is to be
	// asked a second time; nil is always. Drivers of protocols whose exchanges stand
	// each for itself ask it before each.
	Again func(endpoint string) bool
}

// A Driver plays one flow to the candidate by the rules of its protocol. It is a
// pure state machine: who runs it owns the sockets and the clock, and calls it from
// one goroutine at a time.
//
// Its input is from outside, cut anywhere: whatever comes, it neither panics nor
// holds more than Session.Keep allows per unit, and what breaks the protocol makes
// the rest of the flow Opaque, with the reason and the offset of the byte.
type Driver interface {
	// Hear takes an event and returns what is to be done.
	Hear(e Event) Moves
	// Held is how many bytes it holds back: client's units that the candidate must
	// not have yet, and replies that wait for their other half.
	Held() int
	// Stop ends the session. It returns the exchanges that have begun and were not
	// returned before, with why they were not compared, and at least one exchange
	// if none was ever returned. Hear is not called after it.
	Stop(why Verdict, reason string) []Exchange
}

// Moves is what a driver wants done.
type Moves struct {
	// Redial ends the connection to the candidate, if there is one, and begins
	// another one; Send is for that. Nothing of the old one is to be heard after it.
	// Protocols whose servers may close between two exchanges want it.
	Redial bool
	// Send is for the candidate, behind all that was returned before; the caller's.
	Send []byte
	// Secure has a TLS handshake with the candidate begun behind Send, as the client's was
	// with the primary; what became of it is heard as an Event with TLS.
	Secure *Handshake
	// FIN ends our direction towards the candidate, behind Send.
	FIN bool
	// Exchanges are complete: both replies are there, or it is known that there
	// will be none to compare.
	Exchanges []Exchange
	// Owed says that the candidate owes a reply behind all this that the primary has
	// given. Its patience runs from the first Moves that say so, anew with each Send,
	// until some that do not.
	Owed bool
	// Done says that the driver wants to hear no more: the connection to the
	// candidate may be closed when Send is written.
	Done bool
}
