// Package health checks the backends of splits from this host, and tells when
// one goes down or comes up again.
//
// What decides is pure: Targets says what of a split is checked and where, Next
// what a result means for what was known before, Withdraw which addresses the
// data plane is to leave out, Sum how a backend is as a whole. A Runner asks a
// Checker at the right times; Checks are the real ones.
//
//	State     up, down, or checking: nothing is known yet
//	Result    what one check says: passed, failed, or unknown
//	Standing  what the results so far say of one target
//	Event     a change of state, with its reason
//
// A check that could not be made (no file descriptor left, a program that is
// missing) says nothing about a backend, and so changes nothing.
package health
