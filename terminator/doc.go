// Package terminator stands in for a service in sampled flows, so that what is said inside
// TLS can be seen. It opens each flow's TLS to the primary first, as the client has
// asked for it, then answers the client with a certificate of the service's own and with what
// the primary has agreed to, and passes on what the two say. All of TLS is crypto/tls.
//
// A [Terminator] is that of one split. Carry carries a flow from its first byte to its last:
//
//   - a client that begins with a ClientHello gets implicit TLS (HTTPS, port 465);
//   - one that speaks otherwise, or a primary that speaks first, is passed on in clear. In a
//     dialogue that can go on inside TLS (STARTTLS of SMTP) it is followed up to there. What either
//     side has said in clear behind that point is discarded (CVE-2011-0411), but for what the
//     primary says in a segment of its own before the client's ClientHello: that is passed on in
//     clear, and then all of the flow, unseen. Nothing of either gets inside TLS by us;
//   - where nobody can stand in for the service the flow is passed through as it is, unseen,
//     with a reason: the primary asks for a certificate of the client, it chooses HTTP/2, the
//     client sends early data, no certificate covers the name, the primary's certificate is not
//     trusted, and the others of reasons.go.
//
// To know that before anything is said, the primary is probed: a handshake of our own for each
// address and what a client asks for, kept for five minutes and at most 1024 times. Flows are
// never kept waiting for it: until the answer is there they are passed through.
// A flow's own handshake teaches the same, so that busy splits are hardly probed.
//
// # How it is told
//
// The shadow is told by a [Teller], which the daemon fills. It is asked once for a [Tap]: with
// the handshake that all of the flow is inside of, with nothing where the flow begins in
// clear, or with why it is opaque. A chunk is told after its receiver has taken it, and
// before any that answers it. The calls of one flow come from two goroutines, one at
// a time.
//
// # How a flow ends
//
// close_notify is passed on as close_notify and FIN as FIN, each in its own direction. A FIN
// without close_notify stays one: what was cut off never looks whole. What else ends a side ends
// Carry, with an error that says whose it was ([Broken]).
//
// # Another protocol with STARTTLS
//
// IMAP, POP3 and LMTP need a dialogue each (dialogue.go): who follows what both sides say in
// clear up to the reply by which TLS begins, and the same spoken by ourselves, for probes. It gets
// a line in protocolOf.
package terminator
