// Package ring passes records from one process to another through memory that both
// have mapped. Who writes never waits, and makes no system call but to wake a reader
// that sleeps: a thread that relays clients can tell another process all that it
// does, and what that one does with it costs the thread nothing.
//
// A ring has one writer and one reader. Its memory is written by both, so neither
// trusts what it finds there any further than its own bounds reach: whatever the
// other side does, a writer stays within the ring and a reader returns an error.
package ring
