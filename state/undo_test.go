package state_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// play runs changes such as "set 25" against a split of one candidate, as a
// daemon would, and returns the weight in percent after each; "-" where an undo
// found nothing.
func play(t *testing.T, steps []string) []string {
	t.Helper()
	var history []state.Entry // newest first
	var now map[string]traffic.Weight
	results := make([]string, 0, len(steps))
	for _, step := range steps {
		action, weight, _ := strings.Cut(step, " ")
		e := state.Entry{Sequence: uint64(len(history) + 1), Action: state.Action(action), Before: state.Side{Weights: now}}
		switch e.Action {
		case state.ActionUndo:
			undone, ok := state.NextUndo(history)
			if !ok {
				results = append(results, "-")
				continue
			}
			e.Undoes, now = undone.Sequence, undone.Before.Weights
		case state.ActionExpire, state.ActionRevert:
			e.Undoes, now = history[0].Sequence, history[0].Before.Weights
		case state.ActionRemove:
			now = nil
		case state.ActionOff, state.ActionDrain:
			now = map[string]traffic.Weight{"new": 0}
		case state.ActionEnd, state.ActionReset: // what was open, or a report, and nothing else
		case state.ActionSet, state.ActionDefault, state.ActionShadow, state.ActionApply, state.ActionAdopt:
			w, err := traffic.ParseWeight(weight)
			if err != nil {
				t.Fatal(err)
			}
			now = map[string]traffic.Weight{"new": w}
		}
		e.After = state.Side{Weights: now}
		history = slices.Insert(history, 0, e)
		results = append(results, e.After.Sum().String())
	}
	return results
}

func TestUndoGoesFurtherBackEachTime(t *testing.T) {
	for _, tc := range []struct{ name, steps, want string }{
		{"nothing", "undo", "-"},
		{"creation only", "apply 0%, undo", "0%, -"},
		{"one change", "apply 0%, set 5%, undo, undo", "0%, 5%, 0%, -"},
		{
			"undo, set again, undo all",
			"apply 0%, set 5%, set 25%, undo, set 50%, undo, undo, undo",
			"0%, 5%, 25%, 5%, 50%, 5%, 0%, -",
		},
		{
			"two undos, then a change on top of them",
			"apply 0%, set 5%, set 25%, undo, undo, set 1%, undo, undo",
			"0%, 5%, 25%, 5%, 0%, 1%, 0%, -",
		},
		{"off and default are changes", "apply 2%, set 5%, off, default 2%, undo, undo, undo, undo", "2%, 5%, 0%, 2%, 0%, 5%, 2%, -"},
		{"apply is a change", "apply 0%, set 5%, apply 10%, undo, undo, undo", "0%, 5%, 10%, 5%, 0%, -"},
		{"the end of open flows is no change", "apply 0%, set 5%, drain, end, undo, undo", "0%, 5%, 0%, 0%, 5%, 0%"},
		{"what was adopted is not undone, what was before is", "apply 0%, set 5%, adopt 0%, undo", "0%, 5%, 0%, 0%"},
		{"what expired is undone already", "apply 0%, set 5%, set 25%, expire, undo, undo", "0%, 5%, 25%, 5%, 0%, -"},
		{"a change that was reverted never was", "apply 0%, set 5%, set 25%, revert, undo, undo", "0%, 5%, 25%, 5%, 0%, -"},
		{"an undo that was reverted undid nothing", "apply 0%, set 5%, set 25%, undo, revert, undo, undo, undo", "0%, 5%, 25%, 5%, 25%, 5%, 0%, -"},
		{"nor does a removal that was reverted", "apply 0%, set 5%, remove, revert, undo, undo", "0%, 5%, 0%, 5%, 0%, -"},
		{"not beyond a removal", "apply 0%, set 5%, remove, apply 0%, undo", "0%, 5%, 0%, 0%, -"},
		{"after a removal", "apply 0%, set 5%, remove, undo", "0%, 5%, 0%, -"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := play(t, strings.Split(tc.steps, ", "))
			if diff := cmp.Diff(strings.Split(tc.want, ", "), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.steps, diff)
			}
		})
	}
}
