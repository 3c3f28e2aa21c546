// Package state keeps what must outlive the daemon: for each split its
// generation, definition and overrides, the history of changes, and the text
// of the last `apply -f`. It lives in one bbolt database in the state
// directory, with three plain files beside it:
//
//	state.db           Store: the record; one process at a time
//	history.jsonl      Journal: the same history for people and log shippers
//	snapshot.json      Snapshot: what is in force, for `splitd restore` and for a start without the store
//	off-forced.json    forced marker: `off --force` happened while the daemon was dead
//
// A Store is either readable as a whole or refused as a whole. Open walks every
// page before bbolt may touch the file, values carry checksums, and a panic or
// a memory fault inside bbolt, also one that comes later, becomes ErrCorrupt
// instead of the end of the process: the way back must work when the disk does
// not. What to do without a store is the daemon's business, not this package's.
//
// Nothing here reads the clock, knows a path of its own, or talks to a data
// plane.
package state
