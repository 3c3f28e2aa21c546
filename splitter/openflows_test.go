package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// keeper hands what it accepts over.
func keeper(t *testing.T, ip netip.Addr) (netip.AddrPort, <-chan *net.TCPConn) {
	t.Helper()
	accepted := make(chan *net.TCPConn, 64)
	return startServer(t, ip, func(c *net.TCPConn) { accepted <- c }), accepted
}

var ofNew = traffic.BackendKey{Split: "mx", Backend: "new"}

func TestEndingTheFlowsOfABackendResetsBothSidesAndNobodyElse(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			old, atOld := keeper(t, ip)
			first, atFirst := keeper(t, ip)
			moved, atMoved := keeper(t, ip)
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, old, map[string]candidate{"new": {first, traffic.Whole}})
			r := startRelay(t, Options{Workers: 2}, split)
			connect := func(accepted <-chan *net.TCPConn) pair {
				p := pair{client: dial(t, service), server: <-accepted}
				t.Cleanup(func() { abortConn(p.server) })
				if err := talk(p.client, p.server); err != nil {
					t.Fatal(err)
				}
				return p
			}
			var theirs, others []pair
			for range 8 {
				theirs = append(theirs, connect(atFirst))
			}
			r.setWeights(split, map[string]traffic.Weight{"new": 0})
			for range 3 {
				others = append(others, connect(atOld))
			}
			split = newSplit("mx", service, old, map[string]candidate{"new": {moved, traffic.Whole}})
			r.apply(split) // the candidate has another address now
			theirs = append(theirs, connect(atMoved))
			r.setWeights(split, map[string]traffic.Weight{"new": 0})

			open := r.OpenFlows(ofNew)
			if len(open) != len(theirs) {
				t.Errorf("%d flows are open at the candidate, want %d", len(open), len(theirs))
			}
			if n := r.End(open[:1]) + r.End(open); n != len(theirs) {
				t.Errorf("%d flows were ended, want %d", n, len(theirs))
			}
			for _, p := range theirs {
				awaitReset(t, p.client)
				awaitReset(t, p.server)
			}
			for _, p := range others {
				if err := talk(p.client, p.server); err != nil {
					t.Errorf("a flow of the primary: %v", err)
				}
			}
			if n := r.End(open); n != 0 {
				t.Errorf("%d flows were ended twice", n)
			}
			if got := []uint64{r.numbers("new").Active, r.numbers("old").Active}; !cmp.Equal(got, []uint64{0, 3}) {
				t.Errorf("active at candidate and primary: %d, want 0 and 3", got)
			}
		})
	}
}

// It is the operator who takes the candidate away, and no failure of it: where
// proxy.fallback says none too, the client is served.
func TestAnAttemptToACandidateThatTakesNoFlowsGoesToThePrimaryAtOnce(t *testing.T) {
	ip := families()["IPv4"]
	for _, fallback := range []traffic.Fallback{traffic.FallbackPrimary, traffic.FallbackNone} {
		service := netip.AddrPortFrom(ip, freePort())
		split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {blackhole(t, ip), traffic.Whole}})
		split.Proxy.ConnectTimeout, split.Proxy.Fallback = time.Minute, fallback
		r := startRelay(t, Options{}, split)
		c := dial(t, service)
		nettest.Eventually(t, "the attempt waits", func() bool { return r.openFlows() == 1 })
		if n := len(r.OpenFlows(ofNew)); n != 0 {
			t.Errorf("%d flows are open at who has not answered", n)
		}
		if n := r.Free(attemptsAt(traffic.BackendKey{Split: "mx", Backend: "old"})); n != 0 {
			t.Errorf("%d attempts were taken from the primary", n)
		}
		r.setWeights(split, map[string]traffic.Weight{"new": 0})
		if n := r.Free(attemptsAt(ofNew)); n != 1 {
			t.Errorf("%d attempts were freed, want 1", n)
		}
		exchange(t, c, "served by the primary")
		want := []numbers{{Flows: 1, Active: 1, In: 21, Out: 21}, {}}
		got := func() any { return []numbers{r.numbers("old"), r.numbers("new")} }
		nettest.Eventually(t, fmt.Sprintf("fallback %s: the counts of primary and candidate are %+v", fallback, want), func() bool { return cmp.Equal(got(), any(want)) }, got)
	}
}

func TestAttemptsToAddressesThatAreDownAloneAreFreed(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {blackhole(t, ip), traffic.Whole}})
	split.Proxy.ConnectTimeout = time.Minute
	r := startRelay(t, Options{}, split)
	c := dial(t, service)
	nettest.Eventually(t, "the attempt waits", func() bool { return r.openFlows() == 1 })
	if n := r.Free(attemptsAt(ofNew, netip.MustParseAddr("127.0.0.7"), netip.IPv6Loopback())); n != 0 {
		t.Errorf("%d attempts to other addresses were freed", n)
	}
	if n := r.Free(attemptsAt(ofNew, netip.MustParseAddr("127.0.0.7"), ip)); n != 1 {
		t.Errorf("%d attempts were freed, want 1", n)
	}
	exchange(t, c, "served by the primary")
}

func TestTheFlowsOfAClientAreFoundWhoeverServesThem(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			service, hole := netip.AddrPortFrom(ip, freePort()), blackhole(t, ip)
			primary := startServer(t, ip, echo)
			split := newSplit("mx", service, primary, map[string]candidate{"new": {hole, 0}})
			split.Generation, split.Proxy.ConnectTimeout = 3, time.Minute
			r := startRelay(t, Options{Workers: 2}, split)
			one := dial(t, service)
			exchange(t, one, "hello")
			r.setWeights(split, map[string]traffic.Weight{"new": traffic.Whole})
			waits := dial(t, service)
			nettest.Eventually(t, "the attempt waits", func() bool { return r.openFlows() == 2 })

			got := r.FlowsOf(ip, "", 10)
			slices.SortFunc(got, func(a, b ClientFlow) int { return strings.Compare(b.Backend, a.Backend) })
			own := func(c *net.TCPConn) netip.AddrPort { return c.LocalAddr().(*net.TCPAddr).AddrPort() }
			want := []ClientFlow{
				{BackendKey: traffic.BackendKey{Split: "mx", Backend: "old"}, Transport: traffic.TCP, Generation: 3, Client: own(one), Service: service, Server: primary},
				{BackendKey: ofNew, Transport: traffic.TCP, Generation: 3, Client: own(waits), Service: service, Server: hole, HalfOpen: true},
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("flows (-want +got):\n%s", diff)
			}
			if n := len(r.FlowsOf(ip, "mx", 1)); n != 1 {
				t.Errorf("%d flows where one was asked for", n)
			}
			if others := r.FlowsOf(ip, "imap", 10); len(others) != 0 {
				t.Errorf("another split has %v", others)
			}
			if others := r.FlowsOf(netip.MustParseAddr("192.0.2.1"), "", 10); len(others) != 0 {
				t.Errorf("somebody else has %v", others)
			}
		})
	}
}

func TestNothingIsOpenAtABackendThatIsUnknownOrOfARelayThatHasStopped(t *testing.T) {
	ip := families()["IPv4"]
	r, connect := startPairs(t, ip, drainFor(time.Millisecond))
	p := connect(t)
	if err := talk(p.client, p.server); err != nil { // the relay knows of the connection, too
		t.Fatal(err)
	}
	if n := len(r.OpenFlows(ofNew)) + r.Free(attemptsAt(ofNew)) + r.End(nil); n != 0 {
		t.Errorf("%d flows of a backend that there is not", n)
	}
	ofOld := traffic.BackendKey{Split: "mx", Backend: "old"}
	open := r.OpenFlows(ofOld)
	r.stop()
	awaitReset(t, p.client)
	if !r.returned(testPatience) {
		t.Fatal("Run did not return")
	}
	if n := len(r.OpenFlows(ofOld)) + r.Free(attemptsAt(ofOld)); n != 0 || len(open) != 1 || r.End(open) != 0 {
		t.Errorf("%d flows are open after the end, of %d before", n, len(open))
	}
}

// crowd is a worker that is not started, with so many flows without sockets.
func crowd(t *testing.T, flows int) *worker {
	t.Helper()
	w, err := newWorker(New(Options{Workers: 1}), 0, system{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	c := &choice{standing: &standing{gate: &gate{}}}
	for range flows {
		f := w.take(filesOfFlow)
		f.stage, f.choice, f.sockets = connecting, c, [2]int32{-1, -1}
	}
	return w
}

// Among very many flows others are served while some are looked for and ended.
func TestWhoLooksAtManyFlowsLetsOthersIn(t *testing.T) {
	const flows = 3*blocksAtOnce*slabStep + 5
	w := crowd(t, flows)
	rounds := func(over *bool) int {
		for n := 1; ; n++ {
			if w.obey(); *over {
				return n
			}
		}
	}
	var tickets []ticket
	walked, ended := false, false
	w.post(func() {
		w.walk(func(f *flow) { tickets = append(tickets, f.ticket(ofClient)) }, func() { walked = true })
	})
	if n := rounds(&walked); n != 4 || len(tickets) != flows {
		t.Errorf("%d of %d flows were seen in %d rounds, want 4", len(tickets), flows, n)
	}
	count := 0
	w.post(func() { w.endAll(tickets, func(n int) { count, ended = n, true }) })
	if n := rounds(&ended); n < flows/endsAtOnce || count != flows || w.flows.open != 0 {
		t.Errorf("%d of %d flows were ended in %d rounds, %d are open", count, flows, n, w.flows.open)
	}
}

func TestAPanicOfWhoLooksAtAllFlowsCostsOneOfThem(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], func(*traffic.Proxy) {})
	connect(t)
	connect(t)
	var once sync.Once
	r.inspect(func(w *worker) {
		w.walk(func(*flow) { once.Do(func() { panic("the look broke") }) }, func() {})
	})
	if got := r.Faults(); got.Panics != 1 {
		t.Errorf("Faults() = %+v, want 1 panic", got)
	}
	nettest.Eventually(t, "the other flow goes on", func() bool { return r.numbers("old").Active == 1 })
}

// attemptsAt are those to reach a backend, or only some addresses of it.
func attemptsAt(key traffic.BackendKey, addresses ...netip.Addr) map[traffic.BackendKey][]netip.Addr {
	return map[traffic.BackendKey][]netip.Addr{key: addresses}
}
