package runner

// Turns bound how many shadows of a process compute at the same time: whatever they
// parse, decode and compare is taken from the processors that clients' flows are
// relayed on. What waits for a turn meanwhile is held within the budgets. Nil is no
// bound. It may be used from many goroutines.
type Turns chan struct{}

// NewTurns returns so many turns, one at least.
func NewTurns(most int) Turns { return make(Turns, max(1, most)) }

// take waits for a turn, and returns what gives it back.
func (t Turns) take() (give func()) {
	if t == nil {
		return func() {}
	}
	t <- struct{}{}
	return func() { <-t }
}

// batchMost is how many events a flow takes in one turn, so that no long queue has
// the others wait.
const batchMost = 32
