package health

import (
	"fmt"
	"time"
)

// State is whether a target can be used.
type State string

// The states. A target begins with Checking, which counts as up, until its
// first check has passed or enough have failed.
const (
	Checking State = "checking"
	Up       State = "up"
	Down     State = "down"
)

// Outcome is what one check says.
type Outcome int

// The outcomes. Unknown says nothing about the target, because the check could
// not be made.
const (
	Unknown Outcome = iota
	Passed
	Failed
)

// Result is the outcome of one check; Reason says why it did not pass.
type Result struct {
	Outcome Outcome
	Reason  string
}

// Standing is what the results so far say of one target.
type Standing struct {
	State State
	Since time.Time // when State began; zero if nobody saw it
	// Against are the results in a row that speak against State.
	Against int
	// Falls is how often the target went down without being steady since.
	Falls int
	// Reason is what the newest failure said; "" when the newest check passed.
	Reason string
	// Trouble is why the newest check could not be made.
	Trouble string
	Checked time.Time // when the newest check ended; zero before the first
}

// Rules say how many results in a row change a state.
type Rules struct {
	Fall, Rise int
	// Steady is how long a target must stay up for its falls to be forgotten.
	Steady time.Duration
}

// What a target that goes up and down has to show before it is used again:
// patience for the first falls, then the double each time, up to a most.
const (
	patientFalls = 2
	doublings    = 3
)

// Needed is how many checks in a row must pass after so many falls. A target
// that flaps would cost its clients connections each time it is used again.
func (r Rules) Needed(falls int) int {
	return r.Rise << min(max(falls-patientFalls, 0), doublings)
}

// Next is the standing after one more result.
func Next(s Standing, result Result, rules Rules, now time.Time) Standing {
	s.Checked = now
	if result.Outcome == Unknown {
		s.Trouble = result.Reason
		return s
	}
	s.Trouble, s.Reason = "", result.Reason
	if s.State == Up && now.Sub(s.Since) >= rules.Steady {
		s.Falls = 0
	}
	switch {
	case result.Outcome == Passed && s.State == Up, result.Outcome == Failed && s.State == Down:
		s.Against = 0
		return s
	case result.Outcome == Passed && s.State == Checking:
		return s.become(Up, now)
	}
	s.Against++
	switch {
	case result.Outcome == Passed && s.Against >= rules.Needed(s.Falls):
		return s.become(Up, now)
	case result.Outcome == Failed && s.Against >= rules.Fall:
		s.Falls++
		return s.become(Down, now)
	}
	return s
}

func (s Standing) become(state State, now time.Time) Standing {
	s.State, s.Since, s.Against = state, now, 0
	return s
}

// reason says why a result changed the state.
func (r Rules) reason(before, after Standing) string {
	switch {
	case after.State == Down && r.Fall > 1:
		return fmt.Sprintf("%d checks in a row failed: %s", r.Fall, after.Reason)
	case after.State == Down:
		return after.Reason
	case before.State == Checking:
		return "the first check passed"
	case r.Needed(before.Falls) > r.Rise:
		return fmt.Sprintf("%d checks in a row passed (%d are not enough after %d falls)", r.Needed(before.Falls), r.Rise, before.Falls)
	}
	return fmt.Sprintf("%d checks in a row passed", r.Rise)
}
