// Package http1 plays flows of HTTP/1.0 and 1.1 (RFC 9110, RFC 9112) to a
// candidate and makes values of what servers answer: a [shadow.Driver].
//
// A request goes to the candidate when its rule allows it ([Options.Rule]) and the
// candidate has answered the one before; GET, HEAD and OPTIONS are, others by opt-in
// for each path. A request that is not allowed is skipped and the session goes on
// with the next. The bytes are the client's own: nothing is rewritten. Requests are
// independent of one another, so another answer ends nothing, unless it is that to
// an allowed request which changes something: behind it the two servers no longer
// know the same.
//
// The parser is its own, for bytes that come cut anywhere, and strict: what two
// servers may read differently (both lengths, lone CR or LF, folded lines) ends the
// shadow of the flow rather than reach the candidate. Of a body it keeps as much as
// [shadow.Session] says, then a running hash and the length.
//
//	frame.go  bytes into messages      session.go, ends.go  client and primary
//	head.go   their heads, strictly    play.go              the candidate: what it gets, and when
//	method.go what may be meant        again.go             what is asked a second time
//	fields.go replies into values      tunnel.go            what follows 101 Switching Protocols
package http1
