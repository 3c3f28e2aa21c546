package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/splitter"
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
		if err != nil || len(list.Items) != 1 {
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
			if warnings := d.warnings1(t); len(warnings) != 1 || !strings.HasSuffix(warnings[0], test.want) {
				t.Errorf("warnings = %q, want one that ends with %q", warnings, test.want)
			}
		})
	}
}

func TestACandidateThatTheRelayLeavesOutIsTold(t *testing.T) {
	w, d, relay := relayed(t, func(*traffic.Split) {})
	at := func(text string) splitter.LeftOut {
		return splitter.LeftOut{Address: netip.MustParseAddrPort(text), Transport: traffic.TCP, Since: w.now.Add(-90 * time.Second)}
	}
	warnings := func() (status, where []string) {
		list, err := d.Where(t.Context(), "mx", netip.MustParseAddr("203.0.113.7"))
		if err != nil {
			t.Fatal(err)
		}
		return d.warnings1(t), list.Warnings
	}
	if status, where := warnings(); len(status)+len(where) != 0 {
		t.Errorf("where all is well: %q, %q", status, where)
	}
	relay.out = map[traffic.BackendKey][]splitter.LeftOut{ofNew: {at("10.0.0.12:25")}}
	status, where := warnings()
	want := "candidate \"new\" is left out at 10.0.0.12:25 (for 1m30s): flows failed there in a row, to be connected or to get a first byte, see the log; they go to another address of it, else to the primary, and it is tried again now and then"
	if diff := cmp.Diff([]string{want}, status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"mx: " + want}, where); diff != "" {
		t.Errorf("where (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]api.LeftOut{{Address: "10.0.0.12:25", Transport: "tcp", Since: w.now.Add(-90 * time.Second)}}, w.backend(d, 1).LeftOut); diff != "" {
		t.Errorf("the backend (-want +got):\n%s", diff)
	}
	relay.out[ofNew] = []splitter.LeftOut{at("10.0.0.12:25"), at("10.0.0.12:26"), at("10.0.0.12:27"), at("10.0.0.12:28"), at("10.0.0.12:29")}
	if status, _ := warnings(); len(status) != 1 || !strings.Contains(status[0], "at 10.0.0.12:25 (for 1m30s), 10.0.0.12:26 (for 1m30s), 10.0.0.12:27 (for 1m30s) and 2 more: ") {
		t.Errorf("of many addresses: %q", status)
	}
	if _, err := w.set(d, 0); err != nil {
		t.Fatal(err)
	}
	if status, where := warnings(); len(status)+len(where) != 0 {
		t.Errorf("of a candidate that gets no flows whatever it does: %q, %q", status, where)
	}
}

func TestACandidateThatIsDownIsNotToldToBeLeftOutAsWell(t *testing.T) {
	w, d, relay := relayed(t, func(*traffic.Split) {})
	dead := w.watch(d)
	dead.Store(new4, true)
	relayLeaves(t, relay, new4)
	relay.out = map[traffic.BackendKey][]splitter.LeftOut{ofNew: {{Address: netip.AddrPortFrom(new4, 25), Transport: traffic.TCP}}}
	if warnings := strings.Join(d.warnings1(t), "\n"); strings.Contains(warnings, "left out") {
		t.Errorf("warnings = %q", warnings)
	}
}

func TestClientsThatTheRelayShutsOutAreToldForAMinute(t *testing.T) {
	w, d, relay := relayed(t, func(*traffic.Split) {})
	relay.shut = map[string]map[traffic.Refusal]time.Time{"mx": {
		traffic.RefusedMaxFlows: w.now.Add(-3 * time.Second), traffic.RefusedNoFiles: w.now.Add(-shutOutRecent), traffic.RefusedMaxClientFlows: w.now.Add(time.Millisecond),
	}}
	want := []string{
		"clients are shut out (max_client_flows, the newest 0s ago): one address has as many flows as proxy.max_client_flows permits: raise it if it is a network of many behind one address",
		"clients are shut out (max_flows, the newest 3s ago): the split has as many flows as proxy.max_flows permits: raise it if there may be more",
	}
	if diff := cmp.Diff(want, d.warnings1(t)); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// Each of these counts more than one lack, and LimitNOFILE or MemoryMax help with one.
func TestARemedyForALackSaysWhereTheOthersAreTold(t *testing.T) {
	w, d, relay := relayed(t, func(*traffic.Split) {})
	relay.shut = map[string]map[traffic.Refusal]time.Time{"mx": {traffic.RefusedNoFiles: w.now, traffic.RefusedNoMemory: w.now}}
	want := []string{
		"clients are shut out (no_files, the newest 0s ago): splitd has no file descriptor or epoll watch for them: raise LimitNOFILE of its unit, or what the log names",
		"clients are shut out (no_memory, the newest 0s ago): flows have half of the memory of the host or of splitd's unit: raise MemoryMax, or lower proxy.max_flows of other splits; or the kernel has none, see the log",
	}
	if diff := cmp.Diff(want, d.warnings1(t)); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestWhereTellsOfTheFlowsThatTheRelayHasOfAClient(t *testing.T) {
	w, d, relay := relayed(t, func(*traffic.Split) {})
	client := netip.MustParseAddr("203.0.113.7")
	at := func(ip string) netip.AddrPort { return netip.MustParseAddrPort(ip) }
	relay.clients = []splitter.ClientFlow{
		{BackendKey: ofNew, Transport: traffic.TCP, Generation: 2, Client: at("203.0.113.7:4000"), Service: at("192.0.2.25:25"), Server: at("10.0.0.12:25"), HalfOpen: true},
		{BackendKey: ofNew, Transport: traffic.TCP, Generation: 2, Client: at("203.0.113.8:4000"), Service: at("192.0.2.25:25"), Server: at("10.0.0.12:25")},
	}
	list, err := d.Where(w.t.Context(), "mx", client)
	want := []api.ClientFlow{{
		Backend: "new", Generation: 2, Transport: "tcp", Client: "203.0.113.7:4000", Service: "192.0.2.25:25", Server: "10.0.0.12:25", HalfOpen: true,
	}}
	if diff := cmp.Diff(want, list.Items[0].Flows); diff != "" || err != nil || len(list.Warnings) != 0 {
		t.Errorf("flows: %v, warnings %q (-want +got):\n%s", err, list.Warnings, diff)
	}
	other := relay.clients[0]
	other.BackendKey = traffic.BackendKey{Split: "imap", Backend: "new"}
	relay.clients = append(slices.Repeat([]splitter.ClientFlow{other}, clientFlowsMost+1), relay.clients...)
	if list, err = d.Where(w.t.Context(), "mx", client); err != nil || len(list.Items[0].Flows) != 1 || len(list.Warnings) != 0 {
		t.Errorf("behind many flows in another split there are %v, %v, warnings %q; want the one", list.Items[0].Flows, err, list.Warnings)
	}
	relay.clients = relay.clients[clientFlowsMost+1:]
	for range clientFlowsMost {
		relay.clients = append(relay.clients, relay.clients[0])
	}
	list, err = d.Where(w.t.Context(), "mx", client)
	if err != nil || len(list.Items[0].Flows) != clientFlowsMost || len(list.Warnings) != 1 || !strings.Contains(list.Warnings[0], "`ss -tn dst 203.0.113.7` has all of TCP") {
		t.Errorf("of more flows than are listed there are %d, %v, warnings %q", len(list.Items[0].Flows), err, list.Warnings)
	}
}

func TestTheRelaysAttemptsToAnAddressThatIsDownAreFreed(t *testing.T) {
	w, d, relay := relayed(t, func(*traffic.Split) {})
	dead := w.watch(d)
	relayLeaves(t, relay)
	dead.Store(new4, true)
	relayLeaves(t, relay, new4)
	nettest.Eventually(t, "the attempts to it are freed", func() bool {
		d.freeAttempts(t.Context())
		relay.mu.Lock()
		defer relay.mu.Unlock()
		return slices.Equal(relay.freedAt, []netip.Addr{new4})
	})
}
