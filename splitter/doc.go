// Package splitter is the userspace data plane: it listens on the services of
// proxy splits, chooses a backend for each flow and relays the bytes.
//
//	relay := splitter.New(splitter.Options{Log: log})
//	if err := relay.Apply(ctx, splits); err != nil { ... } // the old state serves on
//	err := relay.Run(ctx)                                  // until ctx ends; drains
//
// Who gets a connection is decided by a choice (choice.go), which never changes:
// a change of the split makes another one, and the next connection finds it. It
// asks what the rules of the kernel plane ask, and draws as they do, so
// traffic.Split.Where tells for both.
//
// A connection becomes a flow of the backend that served it, at the moment
// when that backend is connected and before a byte is relayed. A candidate
// that could not be connected has one ConnectFailed more and no flow; the
// primary that took over has the flow. A connection that nobody could serve is
// in no backend's Flows. So the observed share of a candidate is its Flows
// divided by the Flows of all backends of the split.
//
// Ends are passed on as they come: a FIN as a FIN, while the other direction
// goes on (RFC 9293, section 3.6, half-closed connections), and an RST as an
// RST. A flow that splitter itself cuts off (idle, drained, no backend) ends
// with an RST on both sides, because a FIN would look like a whole stream.
//
// A sample of the primary's flows may be told to a Tee (tee.go), which is lent
// what they carry after its receiver has it. Such a flow is copied while its tap
// lives; all others never notice that there is a tee. Flows of UDP have none.
//
// A tap may carry its flow itself (Carrier; carry.go), on connections of its own over the same
// sockets: that is for who has to answer in the service's place. It does so in a goroutine; the
// flow stays its worker's, which looks at it, counts it, and ends it as any other.
//
// Of a split of mode kernel the relay may have an inlet (inlet.go): the kernel hands
// a sample of the primary's flows over there, which go on to where they would have
// gone, with the client's address, and are all told to the Tee. They stay the
// kernel's: it counts and logs them, and nothing that the split says of mode proxy is
// for them.
//
// Where the split says so, a backend gets a PROXY header before the first byte
// of the client (preamble.go): whichever backend was connected in the end. And a
// connection from the networks that the split names begins with such a header
// (header.go): who it names is the client, and the choice is made when it has come.
//
// Of UDP a flow is one address and port of a client that asks one address and
// port of a service (talk.go). Its first datagram decides as a connection does;
// it has a socket of its own towards its backend, ends when it has been silent
// for long enough, and is connecting until the backend has answered, or refused
// nothing for as long as a connect may take. A datagram for which there is no
// room, here or there, is lost as on any network, and counted: nobody waits. Flows
// of UDP have a share of files and ports alone, and where that is used up those that
// have shown least make room (crowd.go): anybody may send in anybody's name.
//
// The package looks into no other bytes. Socket options that need a capability
// it sets for splits alone that are transparent, whose backends it connects to
// with the client's address (borrow.go), and which have no UDP, and for inlets; the
// kernel's rules for that are the caller's to make, before Apply or after OpenInlet.
//
// The engine is a few workers, one for each core, each on a thread and with an
// epoll of its own. It is locked to its thread but at the moments when it
// yields to the Go scheduler, and may go on with another then. A worker has its
// own listener of every address (SO_REUSEPORT), and a flow stays with the
// worker that accepted it. What a flow does next is a function from values to
// values (stream.go), and so are its timeouts (wheel.go); the kernel stands
// behind an interface (edge.go). Bytes are copied while messages are small and
// spliced when they stream. A flow that waits holds two sockets (of UDP one)
// and no goroutine, buffer or pipe, unless it is carried. Datagrams are taken and given in batches.
// The kernel chooses whose of the workers' they are; the one that has the flow
// already gets them by post, where it has chosen otherwise than before
// (owners.go).
package splitter
