// Package raw is the driver for bytes of which nothing is known. What the client
// says goes to the candidate as it comes, and what the two servers say is compared
// byte by byte up to the first that differs: from there on the client's bytes answer
// another dialogue, so the shadow ends. A flow is one exchange.
//
// All that a client says is sent, what changes something too: nothing here can tell
// it apart. For the same reason nothing is sent to a control, and nothing learnt.
// Where the client begins TLS, with its first byte or later, the flow is opaque: its
// bytes can never be the same.
package raw
