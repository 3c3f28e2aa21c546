package splitter

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/splitd/splitd/traffic"
)

// A Tee is told of the sampled flows of primaries, and may have a copy of what
// they carry. Nothing that it does is waited for or reaches a peer: a flow
// without a tap, or one whose tap has refused a chunk or panicked, goes on as if
// there had never been one.
//
// Workers call it, several at once, between the bytes of other flows: it must not
// wait, for a lock that others hold any longer, for a channel, a disk or a
// network. It is told of TCP alone.
type Tee interface {
	// Open is called when the primary has answered the connect, before a byte is
	// relayed. It returns who takes the flow's chunks; nil is nobody, and the flow
	// is told of no more.
	Open(flow Opened) Tap
}

// A Tap takes the chunks of one flow. The flow's worker calls it, from one
// thread at a time: first Take for every chunk and, if that never refused one, End
// once.
type Tap interface {
	// Take is given a chunk after its receiver's socket has taken it, so that it
	// costs this chunk no time. It returns false to end the tee of the flow: it is
	// the last call then, and the flow may be spliced again.
	Take(chunk Chunk) bool
	// End is told how the flow has ended, after the last chunk.
	End(end Ended)
}

// A Carrier is a Tap that carries its flow itself, from the first byte to the last, in the
// relay's place: as who has to stand in for the service to see what is said inside TLS.
// Of its flow neither Take nor End is called. But where the relay has no two file descriptors
// more for it, Carry is not called and the flow goes on unseen: then End is, at once.
//
// All that the relay promises of a flow it keeps of this one, too: it counts the bytes of the
// client's side, ends it at its timeouts and when it is told to, and says how it has ended.
type Carrier interface {
	Tap
	// Carry passes on what the two say until both have ended, and returns then: nil where all
	// was passed on. It is called in a goroutine of the flow's own, and may have others that end
	// before it does. Both connections can end one direction (CloseWrite), and an end of one is
	// read as io.EOF; their Close ends what is under way and fails all that follows, but they
	// are the relay's, which closes them when Carry returns: what was written arrives, and
	// where a side was reset the other is, too. So Carry returns soon after a read or a write has
	// failed. Where the flow is cut off ctx is done and both sides are reset at once, and each
	// Read and Write fails; the relay does not end before Carry has returned. A PROXY header has
	// gone to the primary before, where it wants one.
	//
	// ErrUnseen gives the flow back to the relay. Another error says why it could not be
	// carried to its end, for the log; both sides have been told by what was written to them. A
	// panic cuts the flow off.
	Carry(ctx context.Context, client, primary net.Conn) error
}

// Opened is a flow that a tee is told of.
type Opened struct {
	traffic.BackendKey                         // the primary's
	Generation              traffic.Generation // whose weights and sample were drawn with
	Client, Service, Server netip.AddrPort     // as the relay sees them: Service is what the client has connected to
	At                      time.Time          // when the primary has answered
	Worker                  int                // which of the relay's threads has the flow, from 0 on: all calls about it are that one's
}

// Chunk is a piece of what one side sent and the other side's socket has taken.
// The chunks of a direction are its bytes, each once and in order; and a chunk of
// one direction comes before those of the other that answer it. How the bytes are
// cut into chunks means nothing.
type Chunk struct {
	// FromClient says which way it went: else the primary sent it.
	FromClient bool
	// Bytes are lent until Take returns: they lie in the worker's one buffer, which
	// the next flow's bytes overwrite. Who wants to keep some copies them, into
	// memory that it has a bound for. At most 64 KiB; none with FIN.
	Bytes []byte
	// FIN says that the sender has ended its direction, and that this was passed
	// on: no chunk of it follows. A flow that is reset has no FIN of that side
	// unless one had come before.
	FIN bool
	At  time.Time
}

// Ended is the end of a flow: how, by whom and in two letters as in FlowNews. With
// "closed" both FINs were taken before. Else bytes may have been lost that a side
// had sent and the other side's socket has not taken: no chunk had them.
type Ended struct {
	End, By, Code string
	At            time.Time
}

// TeeCounts are the numbers of a split's tees; they only grow.
type TeeCounts struct {
	// Sampled are the flows that the sample was drawn for. Those that the primary
	// answered were offered to Open: it Declined some and tapped the rest.
	Sampled, Declined, Tapped uint64
	// Refused are the taps that ended by a refused chunk, Panicked those, and the
	// calls of Open and Carry, that ended by a panic.
	Refused, Panicked uint64
}
