package splitter

import (
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestBreakerOpensAfterFailuresInARowAndIsTriedLessAndLessOften(t *testing.T) {
	const patience = 700
	var b breaker
	now := int64(1000)
	for range circuitFailures - 1 {
		b = b.failed(now)
	}
	if b.open() {
		t.Fatalf("open after %d failures", circuitFailures-1)
	}
	if b = b.failed(now); !b.open() {
		t.Fatalf("not open after %d failures", circuitFailures)
	}
	if late := b.failed(now); late.retry != b.retry || late.pause != b.pause {
		t.Errorf("a flow that began before it opened changes %+v to %+v", b, late)
	}
	var waits []int64
	for range 8 {
		waits = append(waits, b.retry-now)
		if _, away, ok := b.asked(b.retry-1, patience); ok || !away {
			t.Error("probed too early, or not kept away")
		}
		now = b.retry
		probed, away, ok := b.asked(now, patience)
		if _, _, again := probed.asked(now, patience); !ok || !away || again {
			t.Errorf("at its time: kept away %v, probed %v, and a second time %v", away, ok, again)
		}
		b = probed.probeFailed(now)
	}
	if b = b.probeServed(); b.open() {
		t.Error("open after a probe has been connected")
	}
	if b = b.failed(now); !b.open() {
		t.Error("not open after the next flow has failed")
	}
	if diff := cmp.Diff([]int64{1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000}, waits); diff != "" {
		t.Errorf("ticks between probes (-want +got):\n%s", diff)
	}
}

// A probe that this host lacks something for, forbids or has no route for says nothing
// of the candidate: the next one comes after the pause that there was.
func TestAProbeThatThisHostCouldNotMakeIsMadeAgainAfterTheSamePause(t *testing.T) {
	ip := families()["IPv4"]
	for name, test := range map[string]struct {
		transport traffic.Transport
		cause     syscall.Errno
		worse     bool
	}{
		"no file":                  {traffic.TCP, unix.EMFILE, false},
		"no port":                  {traffic.TCP, unix.EADDRNOTAVAIL, false},
		"a firewall of this host":  {traffic.TCP, unix.EPERM, false},
		"nobody listens":           {traffic.TCP, unix.ECONNREFUSED, true},
		"a router knows no way":    {traffic.TCP, unix.ENETUNREACH, true},
		"no file, of UDP":          {traffic.UDP, unix.EMFILE, false},
		"a firewall here, of UDP":  {traffic.UDP, unix.EPERM, false},
		"no route here, of UDP":    {traffic.UDP, unix.ENETUNREACH, false},
		"nobody listens, with UDP": {traffic.UDP, unix.ECONNREFUSED, true},
	} {
		t.Run(name, func(t *testing.T) {
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, closedPort(ip), map[string]candidate{"new": {closedPort(ip), traffic.Whole}})
			if test.transport == traffic.UDP {
				split = ofUDP(split)
			}
			r := startRelay(t, Options{Workers: 1, edge: func() edge { return &cannotEdge{cause: test.cause} }}, split)
			r.inspect(func(w *worker) {
				c := r.fronts[spot{service, test.transport}].choice.Load()
				circuit := c.candidates[0].targets[0].circuit
				for range circuitFailures {
					circuit.failed(w.now)
				}
				for range 3 {
					before := circuit.breaker
					w.now = before.retry
					f := &flow{choice: c, others: from(&c.candidates[0], 0)}
					if w.open(f) != nil {
						t.Error("a flow was let through")
						return
					}
					want := before.pause
					if test.worse {
						want = longer(before.pause)
					}
					if after := circuit.breaker; after.pause != want || after.retry != w.now+ticks(want) {
						t.Errorf("after a probe that failed the pause is %v, and the next one is due in %d ms; want %v", after.pause, after.retry-w.now, want)
					}
				}
			})
		})
	}
}

// cannotEdge can reach nobody.
type cannotEdge struct {
	system
	cause syscall.Errno
}

func (e *cannotEdge) connect(*endpoint) (int, syscall.Errno) { return 0, e.cause }

func (e *cannotEdge) associate(*endpoint) (int, syscall.Errno) { return 0, e.cause }

// Flows that had begun before may be served meanwhile.
func TestAProbeThatThisHostCouldNotMakeOpensNoCircuit(t *testing.T) {
	if b := (breaker{}).probeLacked(1000); b.open() {
		t.Errorf("a circuit that has closed meanwhile is %+v", b)
	}
	on := breaker{failures: circuitFailures, pause: circuitPause}.probeConnected(1000)
	if b := on.probeLacked(1000); b != on {
		t.Errorf("one with a flow on trial is %+v, want %+v", b, on)
	}
}

func TestOneFlowAtATimeIsOnTrialAtACandidateThatCanBeConnected(t *testing.T) {
	const patience = 700
	var b breaker
	now := int64(1000)
	for range circuitFailures {
		b = b.failed(now)
	}
	for round := range 3 {
		now = b.retry
		b, _, _ = b.asked(now, patience)
		b = b.probeConnected(now)
		served := 0
		for range 100 {
			var away, probe bool
			if b, away, probe = b.asked(now, patience); !away {
				served++
			}
			if probe || !b.open() {
				t.Fatalf("round %d: probed %v, open %v, want a trial behind an open circuit", round, probe, b.open())
			}
		}
		if served != 1 {
			t.Errorf("round %d: %d of 100 flows were let through, want 1", round, served)
		}
		pause := b.pause
		if b = b.failed(now + 10); b.trial || b.pause != longer(pause) || b.retry != now+10+ticks(b.pause) {
			t.Errorf("round %d: after the trial has failed: %+v, want a longer pause than %v from then on", round, b, pause)
		}
	}
	now = b.retry
	b = b.probeConnected(now)
	b, _, _ = b.asked(now, patience)
	if _, away, _ := b.asked(now+patience-1, patience); !away {
		t.Error("a second flow is let through before the first has had its time")
	}
	if _, away, _ := b.asked(now+patience, patience); away {
		t.Error("no flow is let through after one that said nothing")
	}
}

// It is connected by every probe, and would take its share each time.
func TestACandidateThatAcceptsAndHangsLosesOneFlowForEachTrial(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	var hung, serves atomic.Int64
	trial := startServer(t, ip, func(c *net.TCPConn) {
		defer func() { _ = c.Close() }()
		n, _ := c.Read(make([]byte, 64))
		switch {
		case n == 0: // a probe
		case serves.Load() > 0:
			greeter('n')(c)
		default:
			hung.Add(1)
			_, _ = io.Copy(io.Discard, c)
		}
	})
	old := startServer(t, ip, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 64))
		greeter('o')(c)
	})
	split := newSplit("mx", service, old, map[string]candidate{"new": {trial, traffic.Whole}})
	split.Proxy.FirstByteTimeout = 300 * time.Millisecond
	r := startRelay(t, Options{Workers: 2}, split)
	ask := func() byte {
		c := dial(t, service)
		defer func() { _ = c.Close() }()
		answer := make([]byte, 1)
		if _, err := c.Write([]byte("hello?")); err != nil {
			return 0
		}
		_, _ = c.Read(answer)
		return answer[0]
	}
	for hung.Load() < circuitFailures {
		ask()
	}
	nettest.Eventually(t, "the circuit is open", func() bool { return ask() == 'o' })
	asked := 0
	for hung.Load() < circuitFailures+2 { // two trials
		ask()
		asked++
	}
	if lost := int(hung.Load()) - circuitFailures; asked < 20*lost {
		t.Errorf("%d of %d clients were lost to trials", lost, asked)
	}
	serves.Store(1)
	nettest.Eventually(t, "the candidate has its share", func() bool {
		first, second := ask(), ask()
		return first == 'n' && second == 'n'
	})
	nettest.Eventually(t, "the log says so", func() bool { return strings.Contains(r.logs.String(), "serves again") })
}

// Clients that come behind a candidate whose SYNs are dropped pay nothing once
// the circuit is open, and the candidate gets its share again when it is back.
func TestAnOpenCircuitCostsClientsNothingAndCloses(t *testing.T) {
	ip := families()["IPv4"]
	service, candidateAt := netip.AddrPortFrom(ip, freePort()), blackhole(t, ip)
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {candidateAt, traffic.Whole}})
	split.Proxy.ConnectTimeout = 300 * time.Millisecond
	r := startRelay(t, Options{}, split)
	for range circuitFailures {
		if letter, err := greeting(service); letter != 'o' || err != nil {
			t.Fatalf("served by %q, %v, want the primary", letter, err)
		}
	}
	if got := r.numbers("new").Failed; got != circuitFailures {
		t.Fatalf("the candidate has %d failed connects, want %d", got, circuitFailures)
	}
	for range 200 {
		if letter, err := greeting(service); letter != 'o' || err != nil {
			t.Fatalf("served by %q, %v, want the primary", letter, err)
		}
	}
	if got := *r.Counts()[traffic.BackendKey{Split: "mx", Backend: "new"}].Avoided; got != 200 {
		t.Errorf("%d flows went to the primary at once behind an open circuit, want 200", got)
	}
	if got := r.numbers("new").Failed; got != circuitFailures {
		t.Errorf("the candidate has %d failed connects, want %d: no client tries it", got, circuitFailures)
	}
	nettest.Eventually(t, "the log says that the candidate is left out", func() bool {
		return strings.Contains(r.logs.String(), "the primary takes its share")
	})
}

func TestACandidateThatIsBackTakesItsShareAgain(t *testing.T) {
	ip := families()["IPv6"]
	service, candidateAt := netip.AddrPortFrom(ip, freePort()), closedPort(ip)
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {candidateAt, traffic.Whole}})
	r, began := startRelay(t, Options{}, split), time.Now()
	for range 50 {
		if letter, err := greeting(service); letter != 'o' || err != nil {
			t.Fatalf("served by %q, %v, want the primary", letter, err)
		}
	}
	if got := r.numbers("new").Failed; got != circuitFailures {
		t.Errorf("the candidate has %d failed connects, want %d", got, circuitFailures)
	}
	key := traffic.BackendKey{Split: "mx", Backend: "new"}
	out := r.LeftOut()
	if len(out) != 1 || len(out[key]) != 1 || out[key][0].Address != candidateAt || out[key][0].Transport != traffic.TCP || out[key][0].Since.Before(began) || out[key][0].Since.After(time.Now()) {
		t.Errorf("it is told that %+v is left out, want %s of the candidate, since then", out, candidateAt)
	}
	startServerAt(t, candidateAt, greeter('n'))
	nettest.Eventually(t, "the candidate serves", func() bool {
		letter, err := greeting(service)
		return letter == 'n' && err == nil
	})
	if out := r.LeftOut(); len(out) != 0 {
		t.Errorf("it is told that %+v is left out, which serves", out)
	}
}

func TestWhatIsLeftOutIsToldOnceAndOnlyOfWhatIsServed(t *testing.T) {
	ip := families()["IPv4"]
	service, dead, other := netip.AddrPortFrom(ip, freePort()), closedPort(ip), closedPort(ip)
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {dead, traffic.Whole}})
	split.Service.Ports = append(split.Service.Ports, traffic.Port{Number: freePort(), Transport: traffic.TCP})
	r := startRelay(t, Options{}, split)
	for range circuitFailures {
		if letter, err := greeting(service); letter != 'o' || err != nil {
			t.Fatalf("served by %q, %v, want the primary", letter, err)
		}
	}
	if out := r.LeftOut()[traffic.BackendKey{Split: "mx", Backend: "new"}]; len(out) != 1 {
		t.Errorf("with two ports that lead to one address %+v is left out, want it once", out)
	}
	split.Candidates = slices.Clone(split.Candidates)
	split.Candidates[0].Addresses = []traffic.Address{{IP: other.Addr(), Port: other.Port()}}
	if err := r.Apply(t.Context(), []traffic.Split{split}); err != nil {
		t.Fatal(err)
	}
	if out := r.LeftOut(); len(out) != 0 {
		t.Errorf("%+v is left out, of which the candidate has nothing any more", out)
	}
}

func TestWithoutAFallbackEveryFlowIsTried(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {closedPort(ip), traffic.Whole}})
	split.Proxy.Fallback = traffic.FallbackNone
	r := startRelay(t, Options{}, split)
	const flows = 3 * circuitFailures
	for range flows {
		if _, err := greeting(service); !isReset(err) {
			t.Fatalf("client got %v, want a reset", err)
		}
	}
	if got := r.numbers("new").Failed; got != flows {
		t.Errorf("the candidate has %d failed connects, want %d", got, flows)
	}
}

// The primary is the last backend: there is nobody to go to instead.
func TestThePrimaryIsNeverLeftOut(t *testing.T) {
	ip := families()["IPv4"]
	service, primary := netip.AddrPortFrom(ip, freePort()), closedPort(ip)
	r := startRelay(t, Options{}, newSplit("mx", service, primary, nil))
	for range 3 * circuitFailures {
		if _, err := greeting(service); !isReset(err) {
			t.Fatalf("client got %v, want a reset", err)
		}
	}
	startServerAt(t, primary, func(c *net.TCPConn) { greeter('o')(c) })
	if letter, err := greeting(service); letter != 'o' || err != nil {
		t.Errorf("served by %q, %v, want the primary as soon as it is back", letter, err)
	}
	if got := r.numbers("old").Failed; got != 3*circuitFailures {
		t.Errorf("the primary has %d failed connects, want %d", got, 3*circuitFailures)
	}
}

// A host's addresses change with each renewal, and the candidate keeps its name.
func TestCircuitsOfAddressesThatComeAndGoAreForgotten(t *testing.T) {
	ip := families()["IPv4"]
	service, at := netip.AddrPortFrom(ip, freePort()), closedPort(ip)
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {at, 0}})
	r := startRelay(t, Options{Workers: 1}, split)
	circuits := func() map[circuitKey]*circuit {
		r.mu.Lock()
		defer r.mu.Unlock()
		return maps.Clone(r.circuits)
	}
	stays := circuits()
	moving := netip.MustParseAddr("127.1.0.0")
	for range 3000 {
		moving = moving.Next()
		split.Candidates = slices.Clone(split.Candidates)
		split.Candidates[0].Addresses = []traffic.Address{{IP: at.Addr(), Port: at.Port()}, {IP: moving, Port: at.Port()}}
		r.apply(split)
	}
	all := circuits()
	if len(all) != 2 {
		t.Errorf("%d circuits are remembered, want those of the two addresses that are served", len(all))
	}
	for key, c := range stays {
		if all[key] != c {
			t.Errorf("%v, which was always served, has another circuit: what is known of it is lost", key)
		}
	}
}

func TestAnAddressThatIsDownIsNotLeftOutAsWell(t *testing.T) {
	ip := families()["IPv4"]
	service, dead := netip.AddrPortFrom(ip, freePort()), closedPort(ip)
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {dead, traffic.Whole}})
	living := startServerAt(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.77"), freePort()), greeter('n'))
	split.Candidates[0].Addresses = append(split.Candidates[0].Addresses, traffic.Address{IP: living.Addr(), Port: living.Port()})
	r := startRelay(t, Options{}, split)
	nettest.Eventually(t, "the dead address is left out", func() bool {
		_, _ = greeting(service)
		return len(r.LeftOut()) == 1
	})
	split.Candidates = slices.Clone(split.Candidates)
	split.Candidates[0].Down = []netip.Addr{dead.Addr()}
	if err := r.SetBackends(split); err != nil {
		t.Fatal(err)
	}
	if out := r.LeftOut(); len(out) != 0 {
		t.Errorf("%+v is left out, where no flow is to go", out)
	}
}
