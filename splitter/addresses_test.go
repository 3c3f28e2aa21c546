package splitter

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// of is a backend of several addresses. A draw of 0 goes to the first of them.
func of(name string, at ...netip.AddrPort) traffic.Backend {
	b := traffic.Backend{Name: name}
	for _, a := range at {
		b.Addresses = append(b.Addresses, traffic.Address{IP: a.Addr(), Port: a.Port()})
	}
	return b
}

func drawFirst() traffic.Weight { return 0 }

// aBackend makes its addresses: each "up", "refuses" or "hangs".
func aBackend(t *testing.T, ip netip.Addr, name string, addresses ...string) traffic.Backend {
	t.Helper()
	var at []netip.AddrPort
	for _, how := range addresses {
		switch how {
		case "up":
			at = append(at, startServer(t, ip, greeter(name[0])))
		case "refuses":
			at = append(at, closedPort(ip))
		case "hangs":
			at = append(at, blackhole(t, ip))
		}
	}
	return of(name, at...)
}

func TestEveryAddressOfABackendIsTriedBeforeAFlowIsLost(t *testing.T) {
	none, whole := traffic.Weight(0), traffic.Whole
	for name, test := range map[string]struct {
		old, new   []string
		weight     traffic.Weight
		fallback   traffic.Fallback
		served     string // the letter of who serves, "" is nobody
		oldF, newF uint64 // failed connects
	}{
		"the primary's first refuses":               {old: []string{"refuses", "up"}, new: []string{"up"}, weight: none, served: "o", oldF: 1},
		"the primary's first hangs":                 {old: []string{"hangs", "up"}, new: []string{"up"}, weight: none, served: "o", oldF: 1},
		"the primary's first two":                   {old: []string{"hangs", "refuses", "up"}, new: []string{"up"}, weight: none, served: "o", oldF: 2},
		"all of the primary's":                      {old: []string{"refuses", "refuses"}, new: []string{"up"}, weight: none, oldF: 2},
		"the candidate's first refuses":             {old: []string{"up"}, new: []string{"refuses", "up"}, weight: whole, served: "n", newF: 1},
		"the candidate's first hangs":               {old: []string{"up"}, new: []string{"hangs", "up"}, weight: whole, served: "o", newF: 1},
		"the candidate's refuse, and hang":          {old: []string{"up"}, new: []string{"refuses", "hangs", "up"}, weight: whole, served: "o", newF: 2},
		"all of the candidate's":                    {old: []string{"up"}, new: []string{"refuses", "refuses"}, weight: whole, served: "o", newF: 2},
		"and the primary's first":                   {old: []string{"refuses", "up"}, new: []string{"refuses", "refuses"}, weight: whole, served: "o", oldF: 1, newF: 2},
		"all of both":                               {old: []string{"refuses", "refuses"}, new: []string{"refuses", "refuses"}, weight: whole, oldF: 2, newF: 2},
		"the candidate's first hangs, and no other": {old: []string{"up"}, new: []string{"hangs", "up"}, weight: whole, fallback: traffic.FallbackNone, served: "n", newF: 1},
		"all of the candidate's, and no other":      {old: []string{"up"}, new: []string{"refuses", "hangs"}, weight: whole, fallback: traffic.FallbackNone, newF: 2},
	} {
		for family, ip := range families() {
			t.Run(name+"/"+family, func(t *testing.T) {
				service := netip.AddrPortFrom(ip, freePort())
				split := newSplit("mx", service, service, map[string]candidate{"new": {service, test.weight}})
				split.Primary = aBackend(t, ip, "old", test.old...)
				weight := split.Candidates[0].Weight
				split.Candidates[0] = aBackend(t, ip, "new", test.new...)
				split.Candidates[0].Weight = weight
				split.Proxy.ConnectTimeout = 200 * time.Millisecond
				if test.fallback != "" {
					split.Proxy.Fallback = test.fallback
				}
				r := startRelay(t, Options{Draw: drawFirst}, split)
				letter, err := greeting(service)
				switch {
				case test.served == "" && !isReset(err):
					t.Errorf("served by %q, %v, want a reset", letter, err)
				case test.served != "" && (err != nil || string(letter) != test.served):
					t.Errorf("served by %q, %v, want %q", letter, err, test.served)
				}
				if diff := cmp.Diff([]uint64{test.oldF, test.newF}, []uint64{r.numbers("old").Failed, r.numbers("new").Failed}); diff != "" {
					t.Errorf("failed connects of primary and candidate (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// A client that always draws the same address must not lose by it.
func TestNoClientOfAPrimaryLosesByOneOfItsAddresses(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, service, nil)
	split.Primary = aBackend(t, ip, "old", "up", "refuses", "up")
	split.Affinity, split.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 64}
	startRelay(t, Options{}, split)
	for last := range byte(50) {
		if got := greetingOf(t, clientAt(1, last), service); got != "o" {
			t.Fatalf("client %d is served by %q", last, got)
		}
	}
}

// The addresses of a candidate have one connect timeout together: what the first
// of them has used of it the second does not get again.
func TestTheAddressesOfACandidateShareOneConnectTimeout(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, service, map[string]candidate{"new": {service, traffic.Whole}})
	split.Candidates[0] = aBackend(t, ip, "new", "hangs", "hangs")
	split.Candidates[0].Weight = traffic.Whole
	split.Primary = aBackend(t, ip, "old", "hangs", "hangs")
	split.Proxy.ConnectTimeout = time.Hour
	r := startRelay(t, Options{Workers: 1, Draw: drawFirst}, split)
	dial(t, service)
	nettest.Eventually(t, "the first attempt waits", func() bool { return r.openFlows() == 1 })
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			due := f.times.connect
			whole := func() int64 { return w.tick() + ticks(time.Hour) }
			later := func() {
				for whole() <= f.times.connect { //nolint:revive // a tick is a millisecond
				}
			}
			later()
			w.refused(f, unix.ECONNREFUSED)
			if f.target.at != r.splitTarget("new", 1) || f.times.connect != due {
				t.Errorf("the second attempt is at %s until %d, want the other address until %d", f.target.at, f.times.connect, due)
			}
			for i, which := range []string{"first", "second"} {
				later()
				least := whole()
				w.refused(f, unix.ECONNREFUSED)
				if f.target.at != r.splitTarget("old", i) || f.times.connect < least || f.times.connect > whole() {
					t.Errorf("then it is at %s until %d, want the primary's %s for a whole timeout", f.target.at, f.times.connect, which)
				}
			}
		})
	})
}

// splitTarget is an address of a backend of the split "mx".
func (r *testRelay) splitTarget(backend string, i int) netip.AddrPort {
	for _, b := range r.splits["mx"].Backends() {
		if b.Name == backend {
			return netip.AddrPortFrom(b.Addresses[i].IP, b.Addresses[i].Port)
		}
	}
	return netip.AddrPort{}
}

func TestADatagramIsPassedOnToTheAddressThatTakesIt(t *testing.T) {
	for name, test := range map[string]struct {
		weight     traffic.Weight
		newRefuses int // of its addresses, the other one answers
		oldRefuses int
		want       string
	}{
		"the primary's first refuses":    {weight: 0, oldRefuses: 1, want: "old"},
		"the candidate's first refuses":  {weight: traffic.Whole, newRefuses: 1, want: "new"},
		"both of its, and the primary's": {weight: traffic.Whole, newRefuses: 2, oldRefuses: 1, want: "old"},
	} {
		for family, ip := range families() {
			t.Run(name+"/"+family, func(t *testing.T) {
				service := netip.AddrPortFrom(ip, freePort())
				split := ofUDP(newSplit("mx", service, service, map[string]candidate{"new": {service, test.weight}}))
				backend := func(name string, refuse int) traffic.Backend {
					at := []netip.AddrPort{closedPort(ip), closedPort(ip)}
					if refuse < 2 {
						at[1] = answersAnywhere(t, ip, name).at
					}
					if refuse < 1 {
						at[0] = answersAnywhere(t, ip, name).at
					}
					return of(name, at...)
				}
				split.Primary = backend("old", test.oldRefuses)
				split.Candidates[0] = backend("new", test.newRefuses)
				split.Candidates[0].Weight = test.weight
				startRelay(t, Options{Workers: 1, Draw: drawFirst}, split)
				c := speak(t, service)
				c.wantFrom(test.want) // it is asked once
				c.wantFrom(test.want)
			})
		}
	}
}
