package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

// sampledConfig is a split whose servers say whom they see. What stands behind it
// in a row of sampledLabs are its service, its primary and the rest.
const sampledConfig = `
control: {socket: %%[1]s/splitd.sock}
http: {listen: ""}
state_dir: %%[1]s/state
splits:
  - name: mx
    service: {addresses: [%s], ports: [4026/tcp]}
    primary: {name: old, addresses: [%s]}
    candidates:
      - {name: new, addresses: [10.2.0.2, "fd02::2"], weight: 0%%%%}
    return: %s
    affinity: %s
    shadow: {sample: %s}
`

// sampledLab is a lab with a host more, where the primary may be.
type sampledLab struct {
	*lab
	elsewhere                        *nettest.NS
	services                         []string
	addresses, primary, back, affine string
}

func newSampledLab(t *testing.T, addresses, primary, back string) *sampledLab {
	t.Helper()
	l := &sampledLab{lab: newLab(t), addresses: addresses, primary: primary, back: back, affine: "none"}
	elsewhere := nettest.New(t, "primary")
	l.elsewhere = elsewhere
	nettest.Link(t, elsewhere, "eth0", []string{"10.3.0.2/24", "fd03::2/64"}, l.router, "eth2", []string{"10.3.0.1/24", "fd03::1/64"})
	elsewhere.Route("0.0.0.0/0", "10.3.0.1")
	elsewhere.Route("::/0", "fd03::1")
	for address := range strings.SplitSeq(addresses, ", ") {
		l.services = append(l.services, net.JoinHostPort(strings.Trim(address, `"`), "4026"))
	}
	for ns, at := range map[*nettest.NS][]string{l.router: {service4, service6}, elsewhere: {"10.3.0.2", "fd03::2"}, l.host: {host4, host6}} {
		for _, ip := range at {
			name := map[*nettest.NS]string{l.router: "old ", elsewhere: "old ", l.host: "new "}[ns]
			ns.Serve("tcp", net.JoinHostPort(ip, "4026"), func(c net.Conn) { echo(c, name+c.RemoteAddr().String()) })
		}
	}
	return l
}

const bothServices = `192.0.2.25, "2001:db8::25"`

// sample configures that share.
func (l *sampledLab) sample(share string) {
	l.t.Helper()
	l.configure(fmt.Sprintf(sampledConfig, l.addresses, l.primary, l.back, l.affine, strings.ReplaceAll(share, "%", "%%")))
	if l.daemon != nil {
		l.ok("apply")
	}
}

// met is what became of a connection: who served it, whom that saw, and whether it
// passed the relay, whose own connection has another port.
type met struct {
	backend string
	client  netip.Addr
	relayed bool
}

// meet connects, has a word echoed, and ends.
func meet(from netip.Addr, service string) (met, error) {
	dialer := net.Dialer{Timeout: 20 * time.Second}
	if from.IsValid() {
		dialer.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	}
	c, err := dialer.Dial("tcp", service)
	if err != nil {
		return met{}, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err == nil {
		_, err = io.WriteString(c, "hello\n")
	}
	if err == nil {
		_, err = r.ReadString('\n')
	}
	if err != nil {
		return met{}, fmt.Errorf("from %s: %w", c.LocalAddr(), err)
	}
	backend, peer, _ := strings.Cut(strings.TrimSpace(line), " ")
	saw, _ := netip.ParseAddrPort(peer)
	own := c.LocalAddr().(*net.TCPAddr).AddrPort()
	return met{backend, saw.Addr(), saw.Port() != own.Port()}, nil
}

// meetings are so many connections to each of the services, some at once: how many
// passed the relay of how many. None may fail, and each has to be served by the
// primary, which sees its client.
func (l *sampledLab) meetings(times int, seen ...string) (relayed, all int) {
	l.t.Helper()
	var mu sync.Mutex
	var errs []error
	var group sync.WaitGroup
	const workers = 4
	for range workers {
		group.Go(func() {
			failed := l.client.NS.Do(func() error {
				var errs []error
				for range times / workers {
					for i, service := range l.services {
						m, err := meet(netip.Addr{}, service)
						if want := seen[i]; err == nil && (m.backend != "old" || m.client.String() != want) {
							err = fmt.Errorf("%s: %q served and saw %s, want old and %s", service, m.backend, m.client, want)
						}
						errs = append(errs, err)
						mu.Lock()
						all++
						if m.relayed {
							relayed++
						}
						mu.Unlock()
					}
				}
				return errors.Join(errs...)
			})
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, failed)
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		l.t.Errorf("of %d connections: %v", all, err)
	}
	return relayed, all
}

// plausible says whether a share of so many has come of a draw: of a million such
// draws one fails.
func plausible(got, of int, share float64) bool {
	mean := float64(of) * share
	return math.Abs(float64(got)-mean) <= 5*math.Sqrt(mean*(1-share))
}

func TestASampledShareOfTheKernelsFlowsPassesTheRelayAndThePrimarySeesItsClients(t *testing.T) {
	clients := []string{"10.1.0.2", "fd01::2"}
	for name, test := range map[string]struct {
		addresses, primary, back string
		seen                     []string // relayed or not
	}{
		"the primary is here":                   {bothServices, "local", "gateway", clients},
		"the primary is elsewhere":              {bothServices, `10.3.0.2, "fd03::2"`, "gateway", clients},
		"replies come by a return path":         {bothServices, `10.3.0.2, "fd03::2"`, "policy", clients},
		"the primary has the service's address": {`10.3.0.2, "fd03::2"`, `10.3.0.2, "fd03::2"`, "gateway", clients},
		"the kernel masquerades":                {bothServices, `10.3.0.2, "fd03::2"`, "masquerade", []string{"10.3.0.1", "fd03::1"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newSampledLab(t, test.addresses, test.primary, test.back)
			l.sample("0%")
			l.start()
			ports := test.back == "masquerade" // which changes ports as a relay does
			if relayed, all := l.meetings(40, test.seen...); relayed > 0 && !ports {
				t.Errorf("without a sample %d of %d connections passed the relay", relayed, all)
			}
			l.sample("30%")
			relayed, all := l.meetings(400, test.seen...)
			if !ports && !plausible(relayed, all, 0.3) {
				t.Errorf("%d of %d connections passed the relay, want 30%%", relayed, all)
			}
			total := 80 + all
			l.sample("100%")
			relayed, all = l.meetings(100, test.seen...)
			if relayed != all && !ports {
				t.Errorf("with a sample of 100%% %d of %d connections passed the relay", relayed, all)
			}
			s := l.status()
			if flows := s.Backends[0].FlowsTotal; flows == nil || *flows != uint64(total+all) {
				t.Errorf("the primary has %v flows, want the %d that there were, each once", flows, total+all)
			}
			if r := l.ok("plan", "--exit-code"); r.code != 0 {
				t.Errorf("there are differences: %s", r.stdout)
			}
			l.sample("0%")
			if relayed, all = l.meetings(40, test.seen...); relayed > 0 && !ports {
				t.Errorf("after the sample %d of %d connections passed the relay", relayed, all)
			}
		})
	}
}

// Neither while it drains, nor while there is none, nor when it comes again.
func TestAStopAndAStartLoseNoSampledFlow(t *testing.T) {
	for _, primary := range []string{"local", `10.3.0.2, "fd03::2"`} {
		l := newSampledLab(t, bothServices, primary, "gateway")
		l.sample("50%")
		l.start()
		stop := make(chan struct{})
		var group sync.WaitGroup
		var mu sync.Mutex
		relayed, all := 0, 0
		for range 4 {
			group.Go(func() {
				err := l.client.NS.Do(func() error {
					for {
						select {
						case <-stop:
							return nil
						default:
						}
						for _, service := range l.services {
							m, err := meet(netip.Addr{}, service)
							if err != nil {
								return err
							}
							mu.Lock()
							if all++; m.relayed {
								relayed++
							}
							mu.Unlock()
						}
					}
				})
				if err != nil {
					t.Errorf("primary %s: %v", primary, err)
				}
			})
		}
		some := func(of *int, what string) {
			mu.Lock()
			was := *of
			mu.Unlock()
			l.eventually(what, func() bool {
				mu.Lock()
				defer mu.Unlock()
				return *of >= was+50
			})
		}
		for range 3 {
			some(&relayed, "flows are relayed")
			l.stop()
			some(&all, "flows go on without the daemon")
			l.start()
		}
		some(&relayed, "flows are relayed again")
		close(stop)
		group.Wait()
		t.Logf("primary %s: %d of %d connections passed the relay", primary, relayed, all)
	}
}

func TestAfterACrashOfTheDaemonSampledFlowsGoToThePrimary(t *testing.T) {
	for _, primary := range []string{"local", `10.3.0.2, "fd03::2"`} {
		l := newSampledLab(t, bothServices, primary, "gateway")
		l.sample("100%")
		l.start()
		clients := []string{"10.1.0.2", "fd01::2"}
		if relayed, all := l.meetings(40, clients...); relayed != all {
			t.Errorf("primary %s: %d of %d connections passed the relay", primary, relayed, all)
		}
		l.kill()
		if relayed, all := l.meetings(200, clients...); relayed > 0 {
			t.Errorf("primary %s: after the crash %d of %d connections passed a relay", primary, relayed, all)
		}
		l.succeeds("restore")
		if relayed, all := l.meetings(40, clients...); relayed > 0 {
			t.Errorf("primary %s: after `splitd restore` %d of %d connections passed a relay", primary, relayed, all)
		}
		l.start()
		if relayed, all := l.meetings(40, clients...); relayed != all {
			t.Errorf("primary %s: after the next start %d of %d connections passed the relay", primary, relayed, all)
		}
	}
}

// The kill switch is for new flows, at once.
func TestAShadowOfNothingIsInForceWhenTheCommandReturns(t *testing.T) {
	l := newSampledLab(t, bothServices, "local", "gateway")
	clients := []string{"10.1.0.2", "fd01::2"}
	l.sample("0%")
	l.start()
	for _, off := range [][]string{{"shadow", "mx", "0%"}, {"off", "mx"}} {
		l.ok("shadow", "mx", "100%")
		if relayed, all := l.meetings(40, clients...); relayed != all {
			t.Errorf("with a sample of 100%% %d of %d connections passed the relay", relayed, all)
		}
		l.ok("set", "mx", "0.0001%")
		if relayed, all := l.meetings(40, clients...); relayed != all {
			t.Errorf("after a change of weight %d of %d connections passed the relay", relayed, all)
		}
		l.ok(off...)
		if relayed, all := l.meetings(40, clients...); relayed > 0 {
			t.Errorf("after %v %d of %d connections passed the relay", off, relayed, all)
		}
	}
}

// What clients say in sampled flows is played to the candidate, which serves nobody.
// This one says nothing that could differ from what the primary says.
func TestSampledFlowsOfTheKernelArePlayedToTheCandidate(t *testing.T) {
	l := newSampledLab(t, bothServices, "local", "gateway")
	heard := make(chan string, 10_000)
	for _, ip := range []string{host4, host6} {
		l.host.Serve("tcp", net.JoinHostPort(ip, "27"), func(c net.Conn) {
			line, _ := bufio.NewReader(c).ReadString('\n')
			heard <- line
			_, _ = io.Copy(io.Discard, c)
		})
	}
	l.configure(strings.NewReplacer(`[10.2.0.2, "fd02::2"]`, `["10.2.0.2:27", "[fd02::2]:27"]`).Replace(
		fmt.Sprintf(sampledConfig, l.addresses, l.primary, l.back, l.affine, "100%%")))
	l.start()
	l.eventually("the candidate hears what a client said", func() bool {
		if relayed, all := l.meetings(4, "10.1.0.2", "fd01::2"); relayed != all {
			t.Fatalf("%d of %d connections passed the relay", relayed, all)
		}
		for {
			select {
			case line := <-heard:
				if line == "hello\n" {
					return true
				}
			default:
				return false
			}
		}
	})
}

// Its answers take another way than through the router, which unsampled flows do not
// mind.
func TestASampleRestsWhereThePrimaryAnswersByAnotherWay(t *testing.T) {
	l := newSampledLab(t, "10.3.0.2", "10.3.0.2", "gateway")
	nettest.Link(t, l.elsewhere, "eth1", []string{"10.1.9.1/24"}, l.client, "eth1", []string{"10.1.9.2/24"})
	l.elsewhere.Route("10.1.0.2/32", "10.1.9.2")
	l.sample("0%")
	l.start()
	if _, all := l.meetings(8, "10.1.0.2"); all != 8 {
		t.Fatalf("%d connections, want 8", all)
	}
	l.sample("100%")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			_ = l.client.NS.Do(func() error { _, err := meet(netip.Addr{}, l.services[0]); return err })
		})
	}
	group.Wait()
	l.eventually("status says so", func() bool { return strings.Contains(strings.Join(l.status().Warnings, ";"), "its sample rests") })
	l.meetings(8, "10.1.0.2")
	if r := l.ok("plan", "--exit-code"); r.code != 0 {
		t.Errorf("there are differences: %s", r.stdout)
	}
}

func TestAClientNetworkIsSampledAlwaysOrNever(t *testing.T) {
	l := newSampledLab(t, bothServices, "local", "gateway")
	l.affine = "source"
	var clients []netip.Addr
	for i := range 24 {
		for _, format := range []string{"10.1.0.%d", "fd01:0:0:0:1::%d"} {
			ip := netip.MustParseAddr(fmt.Sprintf(format, 100+i))
			clients = append(clients, ip)
			if err := l.client.AddAddresses("eth0", netip.PrefixFrom(ip, ip.BitLen()).String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.sample("0%")
	l.start()
	sides := map[netip.Addr]bool{}
	for _, share := range []string{"40%", "70%", "100%"} {
		l.sample(share)
		sampled := 0
		l.client.Do(func() error {
			var errs []error
			for _, ip := range clients {
				service := l.services[0]
				if ip.Is6() {
					service = l.services[1]
				}
				for i := range 4 {
					m, err := meet(ip, service)
					switch {
					case err != nil:
						errs = append(errs, err)
					case m.relayed != sides[ip] && (i > 0 || sides[ip]):
						errs = append(errs, fmt.Errorf("at %s, connection %d: %s passed the relay: %t, before: %t", share, i, ip, m.relayed, sides[ip]))
					}
					sides[ip] = m.relayed
				}
				if sides[ip] {
					sampled++
				}
			}
			return errors.Join(errs...)
		})
		if share == "100%" && sampled != len(clients) || share != "100%" && (sampled == 0 || sampled == len(clients)) {
			t.Errorf("at %s %d of %d clients are sampled", share, sampled, len(clients))
		}
	}
}

// A sample of 0 is for new flows, and so is a split that is no more.
func TestSampledFlowsThatAreOpenSurviveWhateverIsReloaded(t *testing.T) {
	for name, primary := range map[string]string{"here": "local", "elsewhere": `10.3.0.2, "fd03::2"`} {
		t.Run(name, func(t *testing.T) {
			l := newSampledLab(t, bothServices, primary, "gateway")
			l.sample("0%")
			l.start()
			before := l.ok("plan").stdout
			l.sample("100%")
			type open struct {
				net.Conn
				*bufio.Reader
			}
			var flows []open
			for _, service := range l.services {
				c, r, line := l.dial(service)
				if _, peer, _ := strings.Cut(line, " "); strings.HasSuffix(peer, ":"+port(c)) {
					t.Fatalf("the flow to %s does not pass the relay", service)
				}
				flows = append(flows, open{c, r})
			}
			alive := func(when string) {
				t.Helper()
				for _, f := range flows {
					wantEcho(t, when, f.Conn, f.Reader)
				}
			}
			l.sample("50%")
			alive("with another sample")
			l.sample("0%")
			alive("with no sample")
			text := fmt.Sprintf(sampledConfig, l.addresses, l.primary, l.back, l.affine, "0%%")
			l.configure(text[:strings.Index(text, "splits:")] + "splits: []\n")
			l.ok("apply")
			alive("without the split")
			if r := l.ctl("plan", "--exit-code"); r.code != 0 {
				t.Errorf("there are differences: %s", r.stdout)
			}
			l.sample("0%")
			alive("with it again")
			for _, f := range flows {
				_ = f.Close()
			}
			l.eventually("nothing is left of the sample", func() bool { return withoutGeneration(l.ok("plan").stdout) == withoutGeneration(before) })
		})
	}
}

func port(c net.Conn) string {
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	return port
}

// withoutGeneration is a plan but for numbers that only grow.
func withoutGeneration(plan string) string {
	var lines []string
	for line := range strings.Lines(plan) {
		if !strings.Contains(line, "gen=") && !strings.Contains(line, "/v") && !strings.Contains(line, "counter") && !strings.Contains(line, "packets") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// A unit that is stopped has the time of drain_timeout.
func TestSampledFlowsDrainWhenTheDaemonEnds(t *testing.T) {
	for name, primary := range map[string]string{"here": "local", "elsewhere": `10.3.0.2, "fd03::2"`} {
		t.Run(name, func(t *testing.T) { drainsSampled(t, primary) })
	}
}

func drainsSampled(t *testing.T, primary string) {
	t.Helper()
	l := newSampledLab(t, bothServices, primary, "gateway")
	l.sample("100%")
	l.start()
	c, r, _ := l.dial(l.services[0])
	l.eventually("one flow is open, and counted once", func() bool {
		active := l.status().Backends[0].FlowsActive
		return active != nil && *active == 1
	})
	daemon := l.daemon
	l.daemon = nil
	if err := daemon.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.eventually("new flows pass the relay by", func() bool {
		relayed, _ := l.meetings(4, "10.1.0.2", "fd01::2")
		return relayed == 0
	})
	wantEcho(t, "while it drains", c, r)
	_ = c.Close()
	l.eventually("the daemon has ended", func() bool { return unix.Kill(daemon.Process.Pid, 0) != nil })
}
