package splitter

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestBreakerOpensAfterFailuresInARowAndIsTriedLessAndLessOften(t *testing.T) {
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
		if _, ok := b.probe(b.retry - 1); ok {
			t.Error("probed too early")
		}
		now = b.retry
		probed, ok := b.probe(now)
		if _, again := probed.probe(now); !ok || again {
			t.Errorf("at its time: probed %v, and a second time %v", ok, again)
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
	r := startRelay(t, Options{}, split)
	for range 50 {
		if letter, err := greeting(service); letter != 'o' || err != nil {
			t.Fatalf("served by %q, %v, want the primary", letter, err)
		}
	}
	if got := r.numbers("new").Failed; got != circuitFailures {
		t.Errorf("the candidate has %d failed connects, want %d", got, circuitFailures)
	}
	startServerAt(t, candidateAt, greeter('n'))
	nettest.Eventually(t, "the candidate serves", func() bool {
		letter, err := greeting(service)
		return letter == 'n' && err == nil
	})
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
