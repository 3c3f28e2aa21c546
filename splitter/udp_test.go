package splitter

import (
	"errors"
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

// ofUDP is a split of the same ports of UDP.
func ofUDP(s traffic.Split) traffic.Split {
	s.Service.Ports = slices.Clone(s.Service.Ports)
	for i := range s.Service.Ports {
		s.Service.Ports[i].Transport = traffic.UDP
	}
	return s
}

// answerer is a server of UDP, and what it was asked.
type answerer struct {
	at    netip.AddrPort
	conn  *net.UDPConn
	mu    sync.Mutex
	asked map[string]int // by question
	from  map[netip.AddrPort]bool
}

// answers has a server answer each question with its name before it, until the
// test ends; a question that begins with "?" it only takes note of.
func answers(t testing.TB, at netip.AddrPort, name string) *answerer {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	a := &answerer{at: at, conn: conn, asked: map[string]int{}, from: map[netip.AddrPort]bool{}}
	var done sync.WaitGroup
	done.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // a client that has gone
			}
			question := string(buffer[:n])
			a.mu.Lock()
			a.asked[question]++
			a.from[from] = true
			a.mu.Unlock()
			if !strings.HasPrefix(question, "?") {
				_, _ = conn.WriteToUDPAddrPort([]byte(name+question), from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		done.Wait()
	})
	return a
}

func (a *answerer) times(question string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[question]
}

// ports is how many sockets have asked.
func (a *answerer) ports() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.from)
}

// tellAll says something to everybody who has asked.
func (a *answerer) tellAll(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for from := range a.from {
		_, _ = a.conn.WriteToUDPAddrPort([]byte(text), from)
	}
}

// answersAnywhere is answers at a port of its own.
func answersAnywhere(t testing.TB, ip netip.Addr, name string) *answerer {
	t.Helper()
	return answers(t, netip.AddrPortFrom(ip, freePort()), name)
}

// speaker is a client. Its socket is connected: it hears nobody but whom it asks.
type speaker struct {
	t testing.TB
	*net.UDPConn
}

func speak(t testing.TB, to netip.AddrPort) speaker { return speakFrom(t, netip.Addr{}, to) }

func speakFrom(t testing.TB, from netip.Addr, to netip.AddrPort) speaker {
	t.Helper()
	var local *net.UDPAddr
	if from.IsValid() {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatalf("speak to %s: %v", to, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(testPatience)); err != nil {
		t.Fatal(err)
	}
	return speaker{t, c}
}

func (s speaker) say(text string) {
	s.t.Helper()
	if _, err := s.Write([]byte(text)); err != nil {
		s.t.Fatalf("say %q: %v", text, err)
	}
}

func (s speaker) hear() string {
	s.t.Helper()
	buffer := make([]byte, 1<<16)
	n, err := s.Read(buffer)
	if err != nil {
		s.t.Fatalf("hear: %v", err)
	}
	return string(buffer[:n])
}

// ask says something and returns who answers it.
func (s speaker) ask(text string) string {
	s.t.Helper()
	s.say(text)
	answer := s.hear()
	name, ok := strings.CutSuffix(answer, text)
	if !ok {
		s.t.Fatalf("asked %q, the answer is %q", text, answer)
	}
	return name
}

func (s speaker) wantFrom(want string) {
	s.t.Helper()
	if got := s.ask("who?"); got != want {
		s.t.Errorf("answered by %q, want %q", got, want)
	}
}

func TestDatagramsReachTheBackendAndItsRepliesComeBack(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			old := answersAnywhere(t, ip, "old")
			service := netip.AddrPortFrom(ip, freePort())
			r := startRelay(t, Options{Workers: 2}, ofUDP(newSplit("mx", service, old.at, nil)))
			c := speak(t, service)
			questions := []string{"a question", "", "ε", strings.Repeat("large ", 10_000)}
			for _, q := range questions {
				if got := c.ask(q); got != "old" {
					t.Errorf("%d bytes are answered by %q, want old", len(q), got)
				}
			}
			bytes := len(strings.Join(questions, ""))
			want := numbers{Flows: 1, Active: 1, In: uint64(bytes), Out: uint64(bytes + len(questions)*len("old"))}
			nettest.Eventually(t, "the flow is counted once, and its bytes", func() bool { return r.numbers("old") == want })
			if n := old.ports(); n != 1 {
				t.Errorf("the flow has come from %d sockets, want 1", n)
			}
		})
	}
}

func TestTwoThousandClientsKeepTheirSideWhateverTheWeight(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, traffic.Whole / 2}}))
	r := startRelay(t, Options{Workers: 2, Draw: seededDraw(11)}, split)
	const clients = 2000
	var all []speaker
	var sides []string
	seen := map[string]int{}
	for range clients {
		c := speak(t, service)
		side := c.ask("first")
		all, sides = append(all, c), append(sides, side)
		seen[side]++
	}
	if low, high := binomialInterval(clients, traffic.Whole/2); seen["new"] < low || seen["new"] > high {
		t.Errorf("the candidate has %d of %d, want %d to %d", seen["new"], clients, low, high)
	}
	for _, weight := range []traffic.Weight{0, traffic.Whole} {
		r.setWeights(split, map[string]traffic.Weight{"new": weight})
		for i, c := range all {
			if side := c.ask("again"); side != sides[i] {
				t.Fatalf("at %s client %d moves from %s to %s", weight, i, sides[i], side)
			}
		}
	}
	counted := map[string]int{"old": int(r.numbers("old").Flows), "new": int(r.numbers("new").Flows)}
	if diff := cmp.Diff(seen, counted); diff != "" {
		t.Errorf("flows by Counts (-seen by clients +counted):\n%s", diff)
	}
}

func TestWithAffinityTCPAndUDPOfASplitSendAClientWhereWhereSays(t *testing.T) {
	ip := families()["IPv4"]
	port := func() netip.AddrPort { return netip.AddrPortFrom(ip, freePort()) }
	old, trial, service := port(), port(), port()
	for at, name := range map[netip.AddrPort]string{old: "o", trial: "n"} {
		answers(t, at, name)
		startServerAt(t, at, greeter(name[0]))
	}
	split := newSplit("mx", service, old, map[string]candidate{"new": {trial, traffic.Whole / 3}})
	split.Service.Ports = append(split.Service.Ports, traffic.Port{Number: service.Port(), Transport: traffic.UDP})
	split.Affinity, split.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 24, IPv6: 64}
	split.Candidates[0].Clients.Always = []netip.Prefix{netip.PrefixFrom(clientAt(7, 0), 24)}
	r := startRelay(t, Options{Workers: 2}, split)
	seen := map[string]int{}
	for range 2 {
		for network := range byte(100) {
			client := clientAt(network, 1)
			want := map[string]string{"old": "o", "new": "n"}[split.Where(client).Backend]
			over := speakFrom(t, client, service).ask("udp")
			if tcp := greetingOf(t, client, service); tcp != want || over != want {
				t.Errorf("client %s is served by %q over TCP and %q over UDP, want %q", client, tcp, over, want)
			}
			seen[over]++
		}
		var err error
		if split, err = split.WithWeights(map[string]traffic.Weight{"new": traffic.Whole / 2}); err != nil {
			t.Fatal(err)
		}
		if err := r.SetWeights(split); err != nil {
			t.Fatal(err)
		}
	}
	if seen["o"] < 20 || seen["n"] < 20 {
		t.Errorf("sides %v: too few to tell", seen)
	}
	if got := r.numbers("old").Flows + r.numbers("new").Flows; got != 400 {
		t.Errorf("%d flows are counted, want 400 of both transports", got)
	}
}

func TestWeightFlipsUnderLoadLoseNoQuestion(t *testing.T) {
	ip := families()["IPv4"]
	old, trial := answersAnywhere(t, ip, "old"), answersAnywhere(t, ip, "new")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, map[string]candidate{"new": {trial.at, 0}}))
	r := startRelay(t, Options{Workers: 2}, split)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var asked [4]int
	for i := range asked {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(service))
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(testPatience))
				_, err = c.Write([]byte("x"))
				if err == nil {
					_, err = c.Read(make([]byte, 10))
				}
				_ = c.Close()
				if err != nil {
					t.Errorf("a question is lost: %v", err)
					return
				}
				asked[i]++
			}
		})
	}
	for i := range 500 {
		weight := traffic.Whole * traffic.Weight(i%2)
		if i%3 == 0 {
			whole, err := split.WithWeights(map[string]traffic.Weight{"new": weight})
			if err != nil {
				t.Fatal(err)
			}
			r.apply(whole)
		} else {
			r.setWeights(split, map[string]traffic.Weight{"new": weight})
		}
		before := r.numbers("old").Flows + r.numbers("new").Flows
		nettest.Eventually(t, "a flow begins", func() bool { return r.numbers("old").Flows+r.numbers("new").Flows > before || t.Failed() })
	}
	close(stop)
	load.Wait()
	sum := 0
	for _, n := range asked {
		sum += n
	}
	// Not their flows: a client may get a port that another has given back.
	if got := r.numbers("old").In + r.numbers("new").In; got != uint64(sum) {
		t.Errorf("%d bytes are counted, clients have sent %d", got, sum)
	}
	if r.numbers("old").Flows == 0 || r.numbers("new").Flows == 0 {
		t.Error("one of the backends had no flow: the flips have shown nothing")
	}
	if f := r.Faults(); f != (Faults{}) {
		t.Errorf("faults: %+v", f)
	}
}

func TestLimitsOfFlowsHoldForUDPAndAreCounted(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, old.at, nil))
	split.Proxy.MaxFlows, split.Proxy.MaxClientFlows = 3, 2
	r := startRelay(t, Options{Workers: 2}, split)
	one, other, third := clientAt(1, 1), clientAt(2, 1), clientAt(3, 1)
	first := speakFrom(t, one, service)
	first.wantFrom("old")
	speakFrom(t, one, service).wantFrom("old")
	refusals := func() map[traffic.Refusal]uint64 { return r.Refusals()["mx"] }
	speakFrom(t, one, service).say("a third flow of a client")
	nettest.Eventually(t, "it is refused", func() bool { return refusals()[traffic.RefusedMaxClientFlows] == 1 })
	speakFrom(t, other, service).wantFrom("old")
	speakFrom(t, third, service).say("a fourth flow")
	nettest.Eventually(t, "it is refused", func() bool { return refusals()[traffic.RefusedMaxFlows] == 1 })
	first.wantFrom("old")
	if n := old.times("a fourth flow") + old.times("a third flow of a client"); n != 0 {
		t.Errorf("%d refused datagrams have come through", n)
	}
	if n := r.End(r.OpenFlows(traffic.BackendKey{Split: "mx", Backend: "old"})); n != 3 {
		t.Errorf("%d flows were ended, want 3", n)
	}
	first.wantFrom("old") // there is room again
	if want := fmt.Sprint(map[traffic.Refusal]uint64{traffic.RefusedMaxClientFlows: 1, traffic.RefusedMaxFlows: 1}); fmt.Sprint(refusals()) != want {
		t.Errorf("refusals %v, want %s", refusals(), want)
	}
}

// newsTo is a flow log that hands on what it is told.
type newsTo chan FlowNews

func (newsTo) Wants(netip.AddrPort) bool { return true }

func (n newsTo) Tell(news FlowNews) { n <- news }
