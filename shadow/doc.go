// Package shadow compares what two backends answer: the primary, which serves the
// client, and a candidate, to which the same client is played. It holds the words
// of that, the seam for the protocols, and the comparer: functions from values to
// values, with neither clock nor socket.
//
// The way of a flow:
//
//	chunks of both directions (splitter.Tee) ──► Event ──► Driver ──► Moves.Send ──► candidate
//	                what the candidate answers ──► Event ──►   │
//	                                                           ▼
//	                                              Moves.Exchanges: what is compared
//
// A [Driver] knows one protocol. It cuts what the parties say into exchanges, and
// gives the candidate the client's next unit only when the candidate's reply to
// the one before is complete: the client's bytes answer the primary's replies, so
// copied blindly they would become nonsense as soon as the candidate answers
// otherwise. Each server's reply becomes a [Reply], a list of named values, so that
// comparer, noise model and report know nothing of protocols. To teach splitd a
// protocol, write one Driver.
//
// Nothing here is in the way of the client: who runs a driver feeds it copies, and
// may stop at any time.
package shadow
