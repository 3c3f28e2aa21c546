package splitter

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// Workers without flows have nothing more to do then, but sockets among which the
// kernel chooses.
func TestWhileTheRelayStopsNoDatagramOfAnOpenFlowIsLost(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.UDPTimeout, split.Proxy.DrainTimeout = time.Hour, 2*testPatience
	r := startRelay(t, Options{Workers: 12}, split)
	var all []speaker
	for range 6 { // half of the workers, at least, have none
		c := speak(t, service)
		c.wantFrom("old")
		c.say("?and more") // or it would have its answer, and be ended soon
		all = append(all, c)
	}
	nettest.Eventually(t, "they are there", func() bool { return old.times("?and more") == len(all) })
	r.stop()
	nettest.Eventually(t, "the relay drains", func() bool {
		draining := 0
		r.inspect(func(w *worker) {
			if w.draining {
				draining++
			}
		})
		return draining == len(r.workers) && errors.Is(r.Apply(t.Context(), nil), ErrStopped)
	})
	for range 20 {
		for _, c := range all {
			c.wantFrom("old")
		}
	}
	if got := r.numbers("old").Flows; got != uint64(len(all)) {
		t.Errorf("%d flows are counted, want those from before", got)
	}
	r.End(r.OpenFlows(ofOld))
	if !r.returned(testPatience) {
		t.Error("it has not ended after its last flow")
	}
}

// As when sockets of the address have come or gone since it began.
func TestAFlowOfAServiceThatWasRemovedGoesOnWhicheverWorkerItsDatagramsComeTo(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 3}, ofUDP(newSplit("mx", service, old.at, nil)))
	c := speak(t, service)
	c.wantFrom("old")
	var key talker
	r.inspect(func(w *worker) {
		for k := range w.places {
			key = k
		}
	})
	at := r.fronts[spot{service, traffic.UDP}]
	r.apply()
	r.inspect(func(w *worker) {
		w.filled = max(w.filled, 1)
		w.inbox.put([]byte("astray"))
		w.deliver(w.placeOf(at), key, 0, 1)
	})
	for range r.workers {
		if got := c.hear(); got != "oldastray" {
			t.Errorf("the answer is %q", got)
		}
	}
}
