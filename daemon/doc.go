// Package daemon is the wiring room: the only package that knows all others.
// It joins the configuration, the store, the two data planes, the control API
// and the metrics into the process `splitd run`, and offers Restore and
// Cleanup, which work without that process.
//
// The centre is the ledger (ledger.go): pure functions that decide, from the
// definition in the files, the records in the store and what the kernel does,
// which weights are in force. Around it stands one path that every change
// takes (change.go): raising is recorded before it is applied, lowering after,
// so that the way back never waits for a disk.
package daemon
