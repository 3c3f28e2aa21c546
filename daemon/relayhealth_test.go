package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// relayed is a world whose split mx is the relay's.
func relayed(t *testing.T, change func(*traffic.Split)) (*world, *Daemon, *fakeRelay) {
	t.Helper()
	s := watchedMX(percent(30))
	s.Mode, s.Proxy.Fallback = traffic.ModeProxy, traffic.FallbackPrimary
	change(&s)
	w := newWorld(t, s)
	d := w.mustBoot()
	return w, d, d.planes.relay.(*fakeRelay)
}

func relayLeaves(t *testing.T, r *fakeRelay, want ...netip.Addr) {
	t.Helper()
	nettest.Eventually(t, fmt.Sprintf("the relay leaves out %v", want), func() bool {
		return slices.Equal(leftOut(r.mx()), want)
	}, func() any { return leftOut(r.mx()) })
}

func TestTheRelayLeavesOutWhatIsDownThroughEveryChange(t *testing.T) {
	w, d, relay := relayed(t, func(*traffic.Split) {})
	dead := w.watch(d)
	relayLeaves(t, relay)
	generation := relay.mx().Generation
	dead.Store(new4, true)
	relayLeaves(t, relay, new4)
	if got := relay.mx(); got.Generation != generation || got.CandidateWeight() != percent(30) {
		t.Errorf("generation %d, weight %s; health must change neither", got.Generation, got.CandidateWeight())
	}
	if got := w.backend(d, 1).Withdrawn; !slices.Equal(got, []string{"10.0.0.12"}) {
		t.Errorf("status says that %v are withdrawn, want 10.0.0.12", got)
	}
	if _, err := w.set(d, percent(50)); err != nil {
		t.Fatal(err)
	}
	if got := relay.mx(); got.CandidateWeight() != percent(50) || !slices.Equal(leftOut(got), []netip.Addr{new4}) {
		t.Errorf("after a change of weight it draws %s without %v", got.CandidateWeight(), leftOut(got))
	}
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	relayLeaves(t, relay, new4)
	dead.Clear()
	relayLeaves(t, relay)
}

func TestWhereTellsOfTheRelaysSplitsWhatTheRelayDoes(t *testing.T) {
	always := netip.MustParseAddr("198.51.100.7")
	w, d, relay := relayed(t, func(s *traffic.Split) {
		s.Affinity, s.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 64}
		s.Candidates[0].Clients.Always = []netip.Prefix{netip.PrefixFrom(always, 24).Masked()}
	})
	dead := w.watch(d)
	where := func(client netip.Addr) api.Where {
		t.Helper()
		list, err := d.Where(t.Context(), "mx", client)
		if err != nil || len(list.Items) != 1 || list.Items[0].Flows != nil {
			t.Fatalf("where = %+v, %v", list, err)
		}
		return list.Items[0]
	}
	if got := where(always); got.Why != "always" || got.Backend != "new" {
		t.Errorf("a client of the group goes to %q (%s), want new", got.Backend, got.Why)
	}
	for i := range byte(100) {
		client := netip.AddrFrom4([4]byte{203, 0, 113, i})
		if got, want := where(client), relay.mx().Where(client); got.Why != "affinity" || got.Backend != want.Backend {
			t.Errorf("%s goes to %q (%s), want %q", client, got.Backend, got.Why, want.Backend)
		}
	}
	dead.Store(new4, true)
	relayLeaves(t, relay, new4)
	if got := where(always); got.Backend != "old" || got.But != "down" {
		t.Errorf("while it is down they go to %q (%s), want old", got.Backend, got.But)
	}
}

func TestWhatBecomesOfTheRelaysFlowsWhenACandidateIsDownIsTold(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*traffic.Split)
		want   string
	}{
		"withdrawn":                 {func(*traffic.Split) {}, "its share goes to the primary until it is up"},
		"kept, with a fallback":     {func(s *traffic.Split) { s.WhenDown = traffic.WhenDownKeep }, "its flows fall back to the primary"},
		"kept, and without a place": {func(s *traffic.Split) { s.WhenDown, s.Proxy.Fallback = traffic.WhenDownKeep, traffic.FallbackNone }, "its flows fail"},
	} {
		t.Run(name, func(t *testing.T) {
			w, d, _ := relayed(t, test.change)
			dead := w.watch(d)
			dead.Store(new4, true)
			dead.Store(new6, true)
			nettest.Eventually(t, "the candidate is down", func() bool { return w.backend(d, 1).State == "down" })
			if warnings := d.warnings1(t, "mx"); len(warnings) != 1 || !strings.HasSuffix(warnings[0], test.want) {
				t.Errorf("warnings = %q, want one that ends with %q", warnings, test.want)
			}
		})
	}
}
