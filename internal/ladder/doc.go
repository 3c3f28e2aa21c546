// Package ladder measures what a shadow costs the clients of the primary, however
// bad the candidate is: `splitctl shadow SPLIT --self-test`, and a part of the
// benchmarks.
//
// Each rung is a [Candidate] with one [Behaviour]. Clients ask a [Primary] through
// what is measured, the [Subject], at half of the rate that it can bear, while the
// shadow is off and on by turns, and [Rung.Verdict] says whether they could tell.
// Everything is on loopback and made here: the primary, the clients, the splitd (a
// [Daemon] with a temporary directory of its own), and the candidates, each a [Host]:
// a process that runs where nobody else wants the processors, as what another host
// computes costs clients nothing.
//
// A request is sent when it is due, late or not, and its time counts from when it
// was due: a client that waits for an answer before it asks again would leave out
// just what a stall delays.
package ladder
