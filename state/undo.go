package state

// NextUndo returns the newest change of a split that has not been taken back
// yet, given the split's history, newest first. The caller restores its Before
// and records an ActionUndo whose Undoes is its Sequence; asked again it goes
// further back. There is none when nothing is left, and none beyond the moment
// when the split began to be: its creation and its removal are the file's.
//
// What took something back is itself never undone, nor is what no one decided:
// an `expire`, an `adopt`. A change that a `revert` took back never was.
func NextUndo(history []Entry) (Entry, bool) {
	undone := make(map[uint64]bool)
	for _, e := range history {
		if undone[e.Sequence] { // and an undo that was reverted undoes nothing
			continue
		}
		if e.Undoes != 0 {
			undone[e.Undoes] = true
		}
		switch e.Action {
		case ActionRemove:
			return Entry{}, false
		case ActionUndo, ActionAdopt, ActionExpire, ActionRevert, ActionEnd, ActionReset:
			continue
		case ActionSet, ActionDefault, ActionShadow, ActionOff, ActionDrain, ActionApply:
		}
		if e.Before.Weights == nil {
			return Entry{}, false
		}
		return e, true
	}
	return Entry{}, false
}
