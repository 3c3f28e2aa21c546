// Package shadower plays shadows in a process of their own, which runs only where
// nobody else wants the processors: whatever it parses, decodes and compares, and
// whatever a candidate does to it, is taken from no client.
//
// On the daemon's side stands a [Process] with a [Play] for each shadowed split. A
// relay's thread writes what a sampled flow carries into a ring in shared memory, and
// waits for nobody: a flow that finds no room has lost its shadow, and nothing else.
// On the other side [Serve] reads the rings and has package play do all the rest. What
// is rarer than a chunk (which splits there are, numbers, reports) goes over a socket.
//
// The process has no capability but the one that marks its packets, is the first to
// go where memory runs out, and ends with the daemon, whatever ends that. Where it ends
// first, another one takes over with what was counted when it was last asked; of the
// flows that were told of, those that this does not have to their end are counted as lost.
package shadower
