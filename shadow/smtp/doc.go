// Package smtp plays mail sessions (RFC 5321) to a candidate and makes values of
// what servers answer: a [shadow.Driver].
//
// Nothing is delivered twice. In mode [Envelope] the candidate hears commands up to
// RCPT and then RSET; content is never sent. [DataAbort] sends content and never its
// end, [Sink] all of it, but only to a candidate that has proved in this very
// session that it throws mail away.
//
// The candidate gets one command at a time, when both servers have answered the one
// before. Where one accepts and the other refuses what changes the dialogue, the
// candidate's session is ended with RSET and QUIT, and what the client says from
// there on is counted and not compared. What the candidate does not offer in its
// EHLO it is not asked for, even when the client, who goes by the primary's, does.
//
// Content ends at exactly CRLF.CRLF, and only if the primary agrees by answering
// there and nowhere else. Forms of it that lenient servers take for the end never
// reach a candidate (SMTP smuggling).
//
//	options.go   modes, and what is built-in noise     dots.go      where content ends
//	client.go    the client's bytes into units         reply.go     a server's bytes into replies
//	commands.go  verbs, and which extension they need  fields.go    replies into values
//	driver.go    the queue of steps, the primary       text.go      masks of wording
//	play.go      what the candidate gets, and when     excuse.go    identity and greylisting
//	starttls.go  where both begin anew inside TLS
//	leave.go     how its session ends                  xclient.go   telling it who the client is
package smtp
