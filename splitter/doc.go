// Package splitter is the userspace data plane: it listens on the services of
// proxy splits, draws a backend for each connection and relays the bytes.
//
//	relay := splitter.New(splitter.Options{Log: log})
//	if err := relay.Apply(ctx, splits); err != nil { ... } // the old state serves on
//	err := relay.Run(ctx)                                  // until ctx ends; drains
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
// The package carries TCP only, never looks into the bytes and sets no socket
// option that needs a capability. The engine is accept.go, flow.go, dial.go
// and pump.go: it is entered by Relay.accept with a bound front and left by
// flow.abort; all else does not know how bytes move.
package splitter
