package shadower

import (
	"net/rpc"
	"testing"
)

// Whoever speaks to the process may look for orders once more when it is over.
func TestALifeThatIsOverTakesNoOrderAnyMore(t *testing.T) {
	l := &life{bell: make(chan struct{}, 1)}
	none := func(*rpc.Client) error { return nil }
	if !l.push(none) {
		t.Error("a life takes no order")
	}
	if rest := l.take(true); len(rest) != 1 {
		t.Errorf("%d orders are left, want 1", len(rest))
	}
	l.take(false)
	if l.push(none) {
		t.Error("an order is taken that nobody carries out")
	}
}
