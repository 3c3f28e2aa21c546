package splitter

import (
	"net/netip"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// heldFlow is a flow of UDP with its worker, and another worker, to which its
// datagrams may come.
func heldFlow(t *testing.T) (r *testRelay, key talker, owner, other *worker, at *front) {
	t.Helper()
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	r = startRelay(t, Options{Workers: 2}, ofUDP(newSplit("mx", service, old.at, nil)))
	speak(t, service).wantFrom("old")
	r.inspect(func(w *worker) {
		other = w
		for k := range w.places {
			key, owner = k, w
		}
	})
	if other == owner {
		other = r.workers[0]
	}
	return r, key, owner, other, r.fronts[spot{service, traffic.UDP}]
}

// astray has datagrams of the talker come to a worker, one by one.
func astray(w *worker, at *front, key talker, many int) {
	done := make(chan struct{})
	w.post(func() {
		defer close(done)
		for range many {
			w.filled = max(w.filled, 1)
			w.inbox.put([]byte("?astray"))
			w.deliver(w.placeOf(at), key, 0, 1)
		}
	})
	<-done
}

func TestWhatWorkersHaveForOneThatIsSlowIsBoundedAndTheRestCounted(t *testing.T) {
	r, key, owner, other, at := heldFlow(t)
	before := r.numbers("old").In
	passed := func() int { return int(r.numbers("old").In-before) / len("?astray") }
	held := make(chan struct{})
	owner.post(func() { <-held })
	const lost = 500
	astray(other, at, key, handedMost+lost)
	if got := r.Faults().Datagrams; got != lost {
		t.Errorf("%d datagrams are counted as dropped, want %d", got, lost)
	}
	close(held)
	nettest.Eventually(t, "the others have come through", func() bool { return passed() == handedMost })
	astray(other, at, key, 1)
	nettest.Eventually(t, "there is room again", func() bool { return passed() == handedMost+1 })
}

func TestADatagramForAWorkerThatHasEndedIsCountedAndWaitedForByNobody(t *testing.T) {
	r, key, owner, other, at := heldFlow(t)
	owner.mail.mu.Lock()
	owner.mail.closed = true // as while it ends
	owner.mail.mu.Unlock()
	astray(other, at, key, 3)
	if got := r.Faults().Datagrams; got != 3 {
		t.Errorf("%d datagrams are counted as dropped, want 3", got)
	}
	owner.mail.mu.Lock()
	owner.mail.closed = false
	owner.mail.mu.Unlock()
}

func TestADatagramForAFrontThatItsWorkerHasNotIsCounted(t *testing.T) {
	r, key, owner, other, at := heldFlow(t)
	elsewhere := &front{address: at.address}
	elsewhere.choice.Store(at.choice.Load())
	done := make(chan struct{})
	other.post(func() {
		defer close(done)
		other.inbox.put([]byte("?"))
		other.handOver(owner, elsewhere, key, 0, 1)
	})
	<-done
	nettest.Eventually(t, "it is counted", func() bool { return r.Faults().Datagrams == 1 })
}
