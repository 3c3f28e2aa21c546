package splitter

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestTheEndOfTheRelayWaitsForFlowsOfUDPUpToTheDrainTimeout(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.Proxy.DrainTimeout = 2 * time.Second
	r := startRelay(t, Options{Workers: 2}, split)
	var all []speaker
	for range 8 {
		c := speak(t, service)
		c.wantFrom("old")
		all = append(all, c)
	}
	r.stop()
	nettest.Eventually(t, "the relay drains", func() bool { return errors.Is(r.Apply(t.Context(), nil), ErrStopped) })
	for _, c := range all {
		c.wantFrom("old")
	}
	stranger := speak(t, service)
	stranger.say("too late")
	if r.returned(100 * time.Millisecond) {
		t.Error("it ended under open flows")
	}
	if !r.returned(testPatience) {
		t.Fatal("it has not ended after the drain timeout")
	}
	if n := old.times("too late"); n != 0 {
		t.Error("a new flow has begun while the relay drained")
	}
	if _, err := all[0].Write([]byte("nobody listens")); err == nil {
		_, err = all[0].Read(make([]byte, 10))
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after the end: %v, want refused", err)
		}
	}
}

// Or a restart would wait for as long as flows may be silent.
func TestTheEndOfTheRelayDoesNotWaitForFlowsOfUDPThatHaveTheirAnswer(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.UDPTimeout, split.Proxy.DrainTimeout = time.Hour, 0
	r := startRelay(t, Options{Workers: 2}, split)
	for range 5 {
		speak(t, service).wantFrom("old")
	}
	r.stop()
	if !r.returned(testPatience) {
		t.Error("it has not ended")
	}
}

func TestFlowsOfARemovedServiceOfUDPGoOnUntilTheyAreSilent(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.UDPTimeout = time.Second
	r := startRelay(t, Options{Workers: 2}, split)
	c := speak(t, service)
	c.wantFrom("old")
	r.apply()
	late := speak(t, service)
	late.say("too late")
	for range 10 {
		c.wantFrom("old")
	}
	if n := old.times("too late"); n != 0 {
		t.Error("a new flow has begun at a service that was removed")
	}
	nettest.Eventually(t, "the address is free when the flow has ended", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.fronts) == 0
	})
	answers(t, service, "another server")
	speak(t, service).wantFrom("another server")
}

// What waits at its sockets has come before it was removed.
func TestARemovedServiceOfUDPTakesWhatWaitsAtItsSocketsYet(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 1}, ofUDP(newSplit("mx", service, old.at, nil)))
	release := r.workers[0].hold(t)
	var all []speaker
	for range 5 * batchMost {
		c := speak(t, service)
		c.say("in time")
		all = append(all, c)
	}
	removed := make(chan error, 1)
	go func() { removed <- r.Apply(t.Context(), nil) }()
	w := r.workers[0]
	nettest.Eventually(t, "the worker is told", func() bool {
		w.mail.mu.Lock()
		defer w.mail.mu.Unlock()
		return len(w.mail.orders) > 0
	})
	release()
	if err := <-removed; err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if got := c.hear(); got != "oldin time" {
			t.Fatalf("the answer is %q", got)
		}
	}
}

func TestAServiceOfUDPThatComesBackTakesNewFlowsAtOnce(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	r := startRelay(t, Options{Workers: 2}, split)
	c := speak(t, service)
	c.wantFrom("old")
	for range 20 {
		r.apply()
		r.apply(split)
		speak(t, service).wantFrom("old")
		c.wantFrom("old")
	}
	if got := r.numbers("old").Flows; got != 21 {
		t.Errorf("%d flows are counted, want 21", got)
	}
}

// The first client keeps its flow and its backend, through sockets of another
// front: whoever's of the workers' they are.
func TestAServiceOfUDPMovesBetweenWildcardAndAddress(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			old, other := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "other")
			service := netip.AddrPortFrom(ip, freePort())
			single := ofUDP(newSplit("mx", service, other.at, nil))
			whole := ofUDP(newSplit("mx", spot{service, traffic.UDP}.wildcard().AddrPort, old.at, nil))
			r := startRelay(t, Options{Workers: 3}, whole)
			var first []speaker
			for range 9 {
				c := speak(t, service)
				c.wantFrom("old")
				first = append(first, c)
			}
			for range 10 {
				for _, move := range []struct {
					split traffic.Split
					want  string
				}{{single, "other"}, {whole, "old"}} {
					r.apply(move.split)
					for range 3 {
						speak(t, service).wantFrom(move.want)
					}
					for _, c := range first {
						c.wantFrom("old")
					}
				}
			}
			if _, err := listen(spot{service, traffic.UDP}, 1, false); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("second listener: %v, want address already in use", err)
			}
		})
	}
}

// As when the number of sockets has changed between two datagrams of a client.
func TestADatagramThatComesToAnotherWorkerReachesItsFlow(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 3}, ofUDP(newSplit("mx", service, old.at, nil)))
	c := speak(t, service)
	c.wantFrom("old")
	var key talker
	owner := -1
	r.inspect(func(w *worker) {
		for k := range w.places {
			key, owner = k, w.number
		}
	})
	at := r.fronts[spot{service, traffic.UDP}]
	for _, w := range r.workers {
		done := make(chan struct{})
		w.post(func() {
			defer close(done)
			w.filled = max(w.filled, 1)
			w.inbox.put([]byte("astray"))
			w.deliver(w.placeOf(at), key, 0, 1)
		})
		<-done
		if got := c.hear(); got != "oldastray" {
			t.Errorf("by worker %d the answer is %q", w.number, got)
		}
	}
	if got := r.numbers("old"); got.Flows != 1 || owner < 0 {
		t.Errorf("%+v, want the one flow", got)
	}
	// And when it has ended meanwhile, its owner begins another.
	r.workers[owner].post(func() {
		r.workers[owner].handed(at, key, []byte("late"))
	})
	if got := c.hear(); got != "oldlate" {
		t.Errorf("the answer is %q", got)
	}
}

func TestAPortOfUDPThatAnotherProgramHoldsIsAnErrorWithItsCure(t *testing.T) {
	ip := families()["IPv4"]
	taken := answersAnywhere(t, ip, "x")
	err := New(Options{}).Apply(t.Context(), []traffic.Split{ofUDP(newSplit("mx", taken.at, closedPort(ip), nil))})
	want := fmt.Sprintf("listen %q for split %q: address already in use: another program holds it: give splitd an address of its own, or use mode: kernel", taken.at.String()+"/udp", "mx")
	if err == nil || err.Error() != want {
		t.Errorf("Apply() = %v\nwant %s", err, want)
	}
}
