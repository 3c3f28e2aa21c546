package splitter

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// clientAt is one of the clients of the tests: all of 127.0.0.0/8 is this host.
func clientAt(network, host byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 9, network, host}) }

// greetingOf is the greeting that a client gets.
func greetingOf(t *testing.T, client netip.Addr, service netip.AddrPort) string {
	t.Helper()
	c := dialFrom(t, client, service)
	defer abortConn(c)
	var letter [1]byte
	if _, err := c.Read(letter[:]); err != nil {
		t.Fatalf("client %s: %v", client, err)
	}
	return string(letter[:])
}

// greetingsOf counts those of so many flows of different clients.
func greetingsOf(t *testing.T, flows int, service netip.AddrPort) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for i := range flows {
		seen[greetingOf(t, clientAt(byte(i), 1), service)]++
	}
	return seen
}

// setBackends brings what is closed and down in the split into force.
func (r *testRelay) setBackends(split traffic.Split) {
	r.t.Helper()
	if err := r.SetBackends(split); err != nil {
		r.t.Fatalf("SetBackends() = %v", err)
	}
}

// threeLetters is a split whose backends greet with o, n and m.
func threeLetters(t *testing.T, weight, other traffic.Weight) (traffic.Split, netip.AddrPort) {
	t.Helper()
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	return newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{
		"new": {startServer(t, ip, greeter('n')), weight}, "newer": {startServer(t, ip, greeter('m')), other},
	}), service
}

func TestAClientNetworkKeepsItsSideAndAWeightMovesOnlyWhatItMust(t *testing.T) {
	split, service := threeLetters(t, traffic.Whole/4, traffic.Whole/4)
	split.Affinity, split.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 24, IPv6: 64}
	r := startRelay(t, Options{}, split)
	letters := map[string]string{"old": "o", "new": "n", "newer": "m"}
	sides := func() []string {
		var all []string
		for network := range byte(100) {
			side := greetingOf(t, clientAt(network, 1), service)
			if other := greetingOf(t, clientAt(network, 200), service); other != side {
				t.Errorf("one client of network %d is served by %q, another by %q", network, side, other)
			}
			if want := letters[split.Where(clientAt(network, 1)).Backend]; side != want {
				t.Errorf("network %d is served by %q, want %q", network, side, want)
			}
			all = append(all, side)
		}
		return all
	}
	before := sides()
	split.Candidates[0].Weight *= 2
	if err := r.SetWeights(split); err != nil {
		t.Fatal(err)
	}
	moved := 0
	for network, side := range sides() {
		if side == before[network] {
			continue
		}
		if moved++; before[network] != "o" || side != "n" {
			t.Errorf("network %d moves from %q to %q when n is raised", network, before[network], side)
		}
	}
	if moved == 0 {
		t.Error("no network moves when n is raised")
	}
}

func TestGroupsGoWhereTheyMustWhateverTheWeight(t *testing.T) {
	split, service := threeLetters(t, 0, traffic.Whole)
	always, never := clientAt(1, 1), clientAt(2, 1)
	split.Candidates[0].Clients.Always = []netip.Prefix{netip.PrefixFrom(always, 24).Masked()}
	split.Candidates[1].Clients.Never = []netip.Prefix{netip.PrefixFrom(never, 32)}
	r := startRelay(t, Options{}, split)
	wantServed := func(want map[netip.Addr]string) {
		t.Helper()
		got := map[netip.Addr]string{}
		for client := range want {
			got[client] = greetingOf(t, client, service)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("who serves whom (-want +got):\n%s", diff)
		}
	}
	wantServed(map[netip.Addr]string{always: "n", clientAt(1, 9): "n", never: "o", clientAt(2, 2): "m", clientAt(3, 1): "m"})
	split.Candidates[0].Clients, split.Candidates[1].Clients = split.Candidates[1].Clients, split.Candidates[0].Clients
	split.Candidates[0].Weight, split.Candidates[1].Weight = traffic.Whole, 0
	r.apply(split)
	wantServed(map[netip.Addr]string{always: "m", never: "o", clientAt(2, 2): "n", clientAt(3, 1): "n"})
	split.Candidates[1].Closed = true // then its group draws like anybody else
	r.setBackends(split)
	wantServed(map[netip.Addr]string{always: "n", never: "o"})
}

func TestAClosedCandidateTakesNoNewFlowAndKeepsItsOpenOnes(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, echo), traffic.Whole}})
	r := startRelay(t, Options{}, split)
	open := dial(t, service)
	exchange(t, open, "before")
	split.Candidates[0].Closed = true
	r.setBackends(split)
	if diff := cmp.Diff(map[string]int{"o": 50}, greetingsOf(t, 50, service)); diff != "" {
		t.Errorf("who serves while the candidate is closed (-want +got):\n%s", diff)
	}
	exchange(t, open, "and still there")
	split.Candidates[0].Closed = false
	if err := r.SetWeights(split); err != nil { // as an undo does
		t.Fatal(err)
	}
	exchange(t, dial(t, service), "open again")
}

// Two addresses of a candidate are two loopback addresses with the same port.
func twoAddresses(t *testing.T, handles ...func(*net.TCPConn)) (traffic.Split, netip.AddrPort) {
	t.Helper()
	ip, port := families()["IPv4"], freePort()
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {weight: traffic.Whole}})
	split.Candidates[0].Addresses = nil
	for i, handle := range handles {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)}), port)
		if handle != nil {
			startServerAt(t, at, handle)
		}
		split.Candidates[0].Addresses = append(split.Candidates[0].Addresses, traffic.Address{IP: at.Addr(), Port: port})
	}
	return split, service
}

func TestAddressesOfABackendShareItsFlowsAndADeadOneIsLeftOut(t *testing.T) {
	split, service := twoAddresses(t, greeter('a'), greeter('b'))
	r := startRelay(t, Options{Draw: seededDraw(8)}, split)
	first, second := split.Candidates[0].Addresses[0].IP, split.Candidates[0].Addresses[1].IP
	seen := greetingsOf(t, 400, service)
	if low, high := binomialInterval(400, traffic.Whole/2); seen["a"] < low || seen["a"] > high || seen["a"]+seen["b"] != 400 {
		t.Errorf("the two addresses have %v of 400 flows, want half each", seen)
	}
	for _, test := range []struct {
		down []netip.Addr
		want map[string]int
	}{
		{[]netip.Addr{first}, map[string]int{"b": 50}},
		{[]netip.Addr{first, second}, map[string]int{"o": 50}},
		{[]netip.Addr{second}, map[string]int{"a": 50}},
	} {
		split.Candidates[0].Down = test.down
		r.setBackends(split)
		if diff := cmp.Diff(test.want, greetingsOf(t, 50, service)); diff != "" {
			t.Errorf("who serves without %v (-want +got):\n%s", test.down, diff)
		}
	}
	split.Candidates[0].Down = nil
	r.setBackends(split)
	if seen := greetingsOf(t, 50, service); seen["a"] == 0 || seen["b"] == 0 {
		t.Errorf("both addresses live and have %v of 50 flows", seen)
	}
}

// Where nothing checks the addresses, or not yet, connects tell.
func TestAFlowGoesToTheOtherAddressOfACandidateBehindAnOpenCircuit(t *testing.T) {
	split, service := twoAddresses(t, nil, greeter('b'))
	r := startRelay(t, Options{Draw: seededDraw(9)}, split)
	for r.numbers("new").Failed < circuitFailures {
		greetingsOf(t, 1, service)
	}
	if diff := cmp.Diff(map[string]int{"b": 50}, greetingsOf(t, 50, service)); diff != "" {
		t.Errorf("who serves once the circuit is open (-want +got):\n%s", diff)
	}
	if got := r.numbers("new").Failed; got != circuitFailures {
		t.Errorf("the candidate has %d failed connects, want %d", got, circuitFailures)
	}
}

// Checks have connected it: nobody need wait for a probe.
func TestACandidateThatHasRisenTakesFlowsAtOnceWhateverItsCircuit(t *testing.T) {
	ip := families()["IPv4"]
	service, candidateAt := netip.AddrPortFrom(ip, freePort()), closedPort(ip)
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {candidateAt, traffic.Whole}})
	r := startRelay(t, Options{}, split)
	greetingsOf(t, 3*circuitFailures, service)
	split.Candidates[0].Down = []netip.Addr{ip}
	r.setBackends(split)
	startServerAt(t, candidateAt, greeter('n'))
	split.Candidates[0].Down = nil
	r.setBackends(split)
	if got := greetingOf(t, clientAt(1, 1), service); got != "n" {
		t.Errorf("served by %q, want the candidate", got)
	}
}

func TestAPrimaryOfWhichNoAddressLivesKeepsItsShare(t *testing.T) {
	split, service := twoAddresses(t, greeter('a'), greeter('b'))
	split.Primary, split.Candidates[0] = split.Candidates[0], split.Primary
	split.Primary.Down = []netip.Addr{split.Primary.Addresses[0].IP}
	r := startRelay(t, Options{}, split)
	if diff := cmp.Diff(map[string]int{"b": 50}, greetingsOf(t, 50, service)); diff != "" {
		t.Errorf("with one address down (-want +got):\n%s", diff)
	}
	split.Primary.Down = append(split.Primary.Down, split.Primary.Addresses[1].IP)
	r.setBackends(split)
	if seen := greetingsOf(t, 50, service); seen["o"] != 0 {
		t.Errorf("with both down the candidate at 0%% has flows: %v", seen)
	}
}

func TestSetBackendsRefusesASplitThatIsNotServed(t *testing.T) {
	want := `set backends of split "web": it is not served in mode proxy`
	if err := startRelay(t, Options{}).SetBackends(traffic.Split{Name: "web"}); err == nil || err.Error() != want {
		t.Errorf("SetBackends() = %v, want %s", err, want)
	}
}
