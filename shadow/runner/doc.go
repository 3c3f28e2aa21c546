// Package runner plays sampled flows to candidates. The relay hands it copies of
// what the two sides of a flow have said, chunk by chunk; a goroutine of the
// flow's own feeds them to the protocol's [shadow.Driver], dials the candidate, and
// tells what was exchanged.
//
// Nothing here may keep the relay waiting: [Tap.Take] copies a chunk into a queue
// that has a bound, or refuses it, which ends the shadow of that flow. Over the
// budget of all flows together the newest shadows are dropped, whole ones, never a
// chunk: a dialogue with a hole is worth nothing. A candidate that fails or lags
// opens a [Breaker], so that it costs no more than a look now and then.
//
// Goroutines: one for each shadowed flow, which owns its drivers, and two for each
// connection to a candidate (a reader, a writer). All end with their flow; Close
// ends all flows and waits.
package runner
