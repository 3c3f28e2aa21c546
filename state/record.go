package state

import (
	"time"

	"github.com/splitd/splitd/traffic"
)

// Record is what is known of one split, also of one that was removed: its
// generation goes on should it come back.
type Record struct {
	Name       string             `json:"name"`
	Generation traffic.Generation `json:"generation"`
	// Definition is as the file, or `apply -f`, says; overrides are not in it.
	Definition traffic.Split     `json:"definition"`
	Overrides  traffic.Overrides `json:"overrides,omitempty"`
	// Baseline is the number of flows of each backend when this generation
	// began: what is observed is counted from there.
	Baseline map[string]uint64 `json:"baseline,omitempty"`
	// Slots are the layout of the draw that the newest change of weights has
	// led to, where it is state; see traffic.Split.
	Slots     traffic.Slots `json:"slots,omitempty"`
	Removed   bool          `json:"removed,omitempty"`
	UpdatedAt time.Time     `json:"updated_at"`
}

// Action is the kind of a change.
type Action string

// The actions.
const (
	ActionSet     Action = "set"     // an operator set weights
	ActionDefault Action = "default" // an operator dropped the overrides
	ActionShadow  Action = "shadow"  // an operator set the sample, or dropped its override
	ActionOff     Action = "off"     // every candidate to 0, and the sample
	ActionDrain   Action = "drain"   // a candidate gets no new flow
	ActionUndo    Action = "undo"    // an earlier change was taken back
	ActionApply   Action = "apply"   // the definition changed
	ActionAdopt   Action = "adopt"   // the kernel's weights were taken over
	ActionExpire  Action = "expire"  // an override reached its end
	ActionRemove  Action = "remove"  // the definition no longer has the split
	ActionRevert  Action = "revert"  // a recorded change did not come into force
	ActionEnd     Action = "end"     // open flows were ended; nothing else changed
	ActionReset   Action = "reset"   // the report began anew; nothing else changed
)

// Side is a split before or after a change.
type Side struct {
	Overrides traffic.Overrides `json:"overrides,omitempty"`
	// Weights are those in force by candidate. Nil means that the split was
	// not there.
	Weights map[string]traffic.Weight `json:"weights"`
	// Sample is the one in force. It is no part of the sum.
	Sample traffic.Weight `json:"sample_ppm,omitempty"`
}

// Sum adds up the candidates' weights.
func (s Side) Sum() traffic.Weight {
	var sum traffic.Weight
	for _, w := range s.Weights {
		sum += w
	}
	return sum
}

// Entry is one change of one split in the history.
type Entry struct {
	// Sequence numbers the entries of all splits, from 1, in the order in
	// which they were recorded. Store.Commit gives it.
	Sequence   uint64             `json:"sequence"`
	Time       time.Time          `json:"time"`
	Split      string             `json:"split"`
	Generation traffic.Generation `json:"generation"` // after the change
	Action     Action             `json:"action"`
	Before     Side               `json:"before"`
	After      Side               `json:"after"`
	// Undoes is the sequence of the entry that this one took back: that of an
	// `undo` or a `revert`, or that of an `expire` whose override came from a
	// `set`. 0: none.
	Undoes uint64 `json:"undoes,omitempty"`
	// Ended is how many open flows an `end` has ended.
	Ended    int    `json:"ended,omitempty"`
	UID      int    `json:"uid"` // -1: the daemon itself
	User     string `json:"user,omitempty"`
	SudoUser string `json:"sudo_user,omitempty"` // claimed, not proven
	PID      int    `json:"pid,omitempty"`
	Command  string `json:"command,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

// Running is the text of the last `apply -f`, which is the definition in force
// until the next plain apply. The zero value means that there is none.
type Running struct {
	Name string `json:"name"` // the file that the text came from
	Text string `json:"text"`
}
