package state

// NextUndo returns the newest change of a split that has not been taken back
// yet, given the split's history, newest first. The caller restores its Before
// and records an ActionUndo whose Undoes is its Sequence; asked again it goes
// further back. There is none when nothing is left, and none beyond the moment
// when the split began to be: its creation and its removal are the file's.
//
// What took something back is itself never undone, nor is what no one decided:
// an `expire`, an `adopt`.
func NextUndo(history []Entry) (Entry, bool) {
	undone := make(map[uint64]bool)
	for _, e := range history {
		if e.Undoes != 0 {
			undone[e.Undoes] = true
		}
		switch e.Action {
		case ActionRemove:
			return Entry{}, false
		case ActionUndo, ActionAdopt, ActionExpire:
			continue
		case ActionSet, ActionDefault, ActionOff, ActionApply:
		}
		if e.Before.Weights == nil {
			return Entry{}, false
		}
		if !undone[e.Sequence] {
			return e, true
		}
	}
	return Entry{}, false
}
