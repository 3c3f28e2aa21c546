package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
)

// healthConfig has the candidate on a port of its own, so that it can die
// alone, and a half of all flows for it.
const healthConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:2525", "[fd02::2]:2525"], weight: 50%%}
    return: gateway
    when_down: primary
    health: {interval: 200ms, timeout: 200ms}
`

// candidate is a server of the new host, which can be killed.
type candidate struct {
	l             *lab
	address, name string
	mu            sync.Mutex
	at            map[string]net.Listener // by network
}

func (l *lab) candidate() *candidate {
	c := &candidate{l: l, address: ":2525", name: "new", at: map[string]net.Listener{}}
	c.live("tcp4")
	c.live("tcp6")
	l.t.Cleanup(func() { c.die("tcp4"); c.die("tcp6") })
	return c
}

// live lets it answer with its name over tcp4 or tcp6.
func (c *candidate) live(network string) {
	c.l.t.Helper()
	var listener net.Listener
	c.l.host.Do(func() (err error) { listener, err = net.Listen(network, c.address); return err })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at[network] = listener
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(conn, c.name)
		}
	}()
}

// die closes its socket, as the end of a process does.
func (c *candidate) die(network string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if listener := c.at[network]; listener != nil {
		_ = listener.Close()
	}
	c.at[network] = nil
}

// blackHole makes a host drop all that reaches it over a family, as one that
// has lost its power does; the returned function brings it back.
func blackHole(t *testing.T, ns *nettest.NS, family nftables.TableFamily) (back func()) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: family, Name: "hole"})
	c.AddChain(&nftables.Chain{
		Table: table, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRaw, Policy: new(nftables.ChainPolicyDrop),
	})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	}
}

// attempt is one connection of the load: who answered, or "" when nobody did.
type attempt struct {
	began   time.Time
	six     bool
	backend string
}

// load connects over both families, from when it is made until the test ends.
type load struct {
	mu       sync.Mutex
	attempts []attempt
}

func (l *lab) load() *load {
	all := &load{}
	ctx, stop := context.WithCancel(l.t.Context())
	var clients sync.WaitGroup
	for i := range 4 {
		address := service4 + ":25"
		if i%2 == 1 {
			address = "[" + service6 + "]:25"
		}
		clients.Go(func() {
			_ = l.client.NS.Do(func() error {
				for ctx.Err() == nil {
					began := time.Now()
					one := attempt{began, i%2 == 1, answerer(address)}
					all.mu.Lock()
					all.attempts = append(all.attempts, one)
					all.mu.Unlock()
				}
				return nil
			})
		})
	}
	l.t.Cleanup(func() { stop(); clients.Wait() })
	return all
}

// answerer connects once, with little patience.
func answerer(address string) string {
	c, err := net.DialTimeout("tcp", address, 900*time.Millisecond) // a SYN that is lost comes again after 1 s
	if err != nil {
		return ""
	}
	defer func() { _ = c.Close() }()
	_ = c.(*net.TCPConn).SetLinger(0) // keeps its port free for others
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	name, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSpace(name)
}

// since counts by backend the attempts of a family that began after a time.
func (a *load) since(after time.Time, six bool) map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := map[string]int{}
	for _, one := range a.attempts {
		if one.six == six && one.began.After(after) {
			counts[one.backend]++
		}
	}
	return counts
}

// withdrawn waits until exactly these addresses of the candidate are left out
// of the kernel.
func (l *lab) withdrawn(want ...string) time.Time {
	l.t.Helper()
	l.eventually(fmt.Sprintf("withdrawn are %q", want), func() bool {
		return slices.Equal(l.status().Backends[1].Withdrawn, want)
	})
	return time.Now()
}

// onlyOld fails unless of many attempts after a time every one was answered by
// the primary.
func (l *lab) onlyOld(a *load, after time.Time, six bool) {
	l.t.Helper()
	l.eventually("there are many attempts", func() bool { return a.since(after, six)["old"] > 100 })
	if got := a.since(after, six); len(got) != 1 {
		l.t.Errorf("IPv6 %v: attempts after the withdrawal were answered by %v, want the primary alone", six, got)
	}
}

// bothAgain waits until the candidate has its share again, and nothing fails.
func (l *lab) bothAgain(a *load, six bool) {
	l.t.Helper()
	after := time.Now()
	l.eventually("both answer again", func() bool { c := a.since(after, six); return c["old"] > 50 && c["new"] > 50 })
	if got := a.since(after, six); len(got) != 2 {
		l.t.Errorf("IPv6 %v: attempts after the candidate's return were answered by %v, want both and nobody else", six, got)
	}
}

func TestACandidateThatDiesUnderLoadIsWithdrawnAndComesBack(t *testing.T) {
	l := newLab(t)
	l.configure(healthConfig)
	c := l.candidate()
	l.start()
	load := l.load()
	l.bothAgain(load, false)
	generation := l.status().Generation

	c.die("tcp4")
	c.die("tcp6")
	since := l.withdrawn("10.2.0.2", "fd02::2")
	l.onlyOld(load, since, false)
	l.onlyOld(load, since, true)
	s := l.status()
	if b := s.Backends[1]; b.State != "down" || !strings.Contains(b.StateReason, "connection refused") || b.WeightPPM != 500_000 {
		t.Errorf("the candidate is %s (%s) with %d ppm, want down, why, and its weight", b.State, b.StateReason, b.WeightPPM)
	}
	if s.Generation != generation || !s.Kernel.Synced() {
		t.Errorf("generation %d, in sync %v; want %d, true", s.Generation, s.Kernel.Synced(), generation)
	}
	if r := l.ok("set", "mx", "60%"); !strings.Contains(r.stderr, `candidate "new" is`) || !strings.Contains(r.stderr, "until it is up") {
		t.Errorf("raising it says %q, want a warning", r.stderr)
	}
	l.onlyOld(load, time.Now(), false)

	c.live("tcp4")
	c.live("tcp6")
	l.withdrawn()
	l.bothAgain(load, false)
	l.bothAgain(load, true)
	for _, want := range []string{"backend is down", "candidate is withdrawn", "candidate is taken in again"} {
		if !strings.Contains(l.log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if h := l.newest(); h.Action != "set" {
		t.Errorf("the history's newest is %q, want the set: health makes no history", h.Action)
	}
}

func TestAHostThatFallsSilentIsWithdrawnPerFamily(t *testing.T) {
	l := newLab(t)
	l.configure(healthConfig)
	l.candidate()
	l.start()
	load := l.load()
	l.bothAgain(load, true)
	back := blackHole(t, l.host, nftables.TableFamilyIPv4)
	since := l.withdrawn("10.2.0.2")
	l.onlyOld(load, since, false)
	l.bothAgain(load, true)
	if b := l.status().Backends[1]; b.State != "up" || !strings.Contains(b.StateReason, "no answer within 200ms") {
		t.Errorf("the candidate is %s (%s), want up and which family is not", b.State, b.StateReason)
	}
	back()
	l.withdrawn()
	l.bothAgain(load, false)
}

// A client whose SYN went to a host that fell silent sends it again, and gets an
// answer from the primary as soon as the candidate is withdrawn.
func TestAnAttemptToReachADeadCandidateIsAnsweredByThePrimary(t *testing.T) {
	l := newLab(t)
	l.configure(strings.Replace(healthConfig, "50%%", "100%%", 1))
	l.candidate()
	l.start()
	l.servedBy("new")
	blackHole(t, l.host, nftables.TableFamilyIPv4)
	var c net.Conn
	l.client.Do(func() (err error) { c, err = net.DialTimeout("tcp", service4+":25", 20*time.Second); return err })
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if name, err := bufio.NewReader(c).ReadString('\n'); name != "old\n" {
		t.Errorf("the attempt was answered by %q, %v; want old", name, err)
	}
}

func TestOfSeveralAddressesADeadOneIsLeftOut(t *testing.T) {
	l := newLab(t)
	if err := l.host.AddAddresses("eth0", "10.2.0.3/24"); err != nil {
		t.Fatal(err)
	}
	l.configure(strings.NewReplacer(`["10.2.0.2:2525",`, `["10.2.0.2:2525", "10.2.0.3:2525",`, "50%%", "100%%").Replace(healthConfig))
	var servers []*candidate
	for _, s := range [][2]string{{"10.2.0.2:2525", "first"}, {"10.2.0.3:2525", "second"}} {
		c := &candidate{l: l, address: s[0], name: s[1], at: map[string]net.Listener{}}
		c.live("tcp4")
		t.Cleanup(func() { c.die("tcp4") })
		servers = append(servers, c)
	}
	l.start()
	l.withdrawn("fd02::2") // where nobody listens
	answers := func(want string) {
		t.Helper()
		for range 30 {
			if got := l.who(service4 + ":25"); got != want {
				t.Fatalf("a connection was answered by %q, want %q", got, want)
			}
		}
	}
	servers[1].die("tcp4")
	l.withdrawn("10.2.0.3", "fd02::2")
	answers("first")
	servers[0].die("tcp4")
	l.withdrawn("10.2.0.2", "10.2.0.3", "fd02::2")
	answers("old")
	servers[1].live("tcp4")
	l.withdrawn("10.2.0.2", "fd02::2")
	answers("second")
}

// Both ways the primary serves; withdrawn, a candidate is not even tried.
func TestInProxyModeADeadCandidateIsWithdrawnOrFallsBack(t *testing.T) {
	for _, whenDown := range []string{"primary", "keep"} {
		t.Run(whenDown, func(t *testing.T) {
			l := newLab(t)
			l.configure(strings.NewReplacer(`[192.0.2.25, "2001:db8::25"], ports: [25/tcp]`, "[10.1.0.1], ports: [2525/tcp]",
				"return: gateway", "mode: proxy", "addresses: [local]", `addresses: ["192.0.2.25:25"]`, "50%%", "100%%",
				"when_down: primary", "when_down: "+whenDown).Replace(healthConfig))
			c := l.candidate()
			l.start()
			answers := func(state, want string) {
				t.Helper()
				l.eventually("the candidate is "+state, func() bool { return l.status().Backends[1].State == state })
				switch {
				case whenDown == "keep":
				case state == "down":
					l.withdrawn("10.2.0.2")
				default:
					l.withdrawn()
				}
				if got := l.who("10.1.0.1:2525"); got != want {
					t.Errorf("while the candidate is %s a connection was answered by %q, want %s", state, got, want)
				}
			}
			answers("up", "new")
			c.die("tcp4")
			answers("down", "old")
			told, tried := "until it is up", uint64(0)
			if whenDown == "keep" {
				told, tried = "fall back to the primary", 1
			}
			if r := l.ok("status"); !strings.Contains(r.stderr, told) {
				t.Errorf("status warns %q, want %q", r.stderr, told)
			}
			if got := l.status().Backends[1].ConnectFailed; got == nil || *got != tried {
				t.Errorf("the candidate was tried %v times while it was down, want %d", got, tried)
			}
			c.live("tcp4")
			answers("up", "new")
		})
	}
}

func TestWhenDownKeepLeavesTheShareWhereItIs(t *testing.T) {
	l := newLab(t)
	l.configure(strings.Replace(healthConfig, "when_down: primary", "when_down: keep", 1))
	c := l.candidate()
	l.start()
	load := l.load()
	c.die("tcp4")
	l.eventually("the address is down", func() bool {
		return slices.ContainsFunc(l.status().Backends[1].Checks, func(c api.Check) bool { return c.State == "down" })
	})
	since := time.Now()
	l.eventually("flows still go there", func() bool { return load.since(since, false)[""] > 20 })
	if b := l.status().Backends[1]; len(b.Withdrawn) > 0 {
		t.Errorf("withdrawn are %v, want none", b.Withdrawn)
	}
}

func TestWhatIsWithdrawnStaysSoWhileTheDaemonRestarts(t *testing.T) {
	l := newLab(t)
	l.configure(healthConfig)
	c := l.candidate()
	l.start()
	load := l.load()
	c.die("tcp4")
	since := l.withdrawn("10.2.0.2")
	l.kill()
	l.onlyOld(load, since, false)
	l.start()
	l.onlyOld(load, since, false)
	if b := l.status().Backends[1]; !slices.Equal(b.Withdrawn, []string{"10.2.0.2"}) {
		t.Errorf("after the restart withdrawn are %v, want 10.2.0.2", b.Withdrawn)
	}
	c.live("tcp4")
	l.withdrawn()
	l.bothAgain(load, false)
}

// How long it takes is printed and not judged: this machine may be busy.
func TestHowLongADeadCandidateGetsFlows(t *testing.T) {
	for _, tt := range []struct{ name, health string }{
		{"interval and timeout 200 ms", "{interval: 200ms, timeout: 200ms}"},
		{"defaults", "{}"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			l.configure(strings.Replace(healthConfig, "{interval: 200ms, timeout: 200ms}", tt.health, 1))
			l.candidate()
			l.start()
			load := l.load()
			l.bothAgain(load, false)
			died := time.Now()
			blackHole(t, l.host, nftables.TableFamilyIPv4)
			since := l.withdrawn("10.2.0.2")
			l.onlyOld(load, since, false)
			load.mu.Lock()
			defer load.mu.Unlock()
			last := died
			for _, a := range load.attempts {
				if !a.six && a.backend == "" && a.began.After(last) {
					last = a.began
				}
			}
			t.Logf("%s: the last new flow to the dead candidate came %v after its death", tt.name, last.Sub(died))
		})
	}
}
