package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

// The primary is at the router's loopback addresses, at the service's own port;
// the candidate is on the new host.
const transparentConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
netfilter: {owner: never}
splits:
  - name: mx
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [26/tcp, 27/tcp]}
    mode: proxy
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.2.0.2, "fd02::2"], weight: 50%%}
    proxy: {transparent: true}
`

// newTransparentLab is a lab whose servers say whom they see. Those at port 27
// end there, and have the connection in TIME_WAIT.
func newTransparentLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.configure(transparentConfig)
	for ns, addresses := range map[*nettest.NS][]string{l.router: {"127.0.0.1", "[::1]"}, l.host: {"10.2.0.2", "[fd02::2]"}} {
		name := map[*nettest.NS]string{l.router: "old ", l.host: "new "}[ns]
		for _, at := range addresses {
			ns.Serve("tcp", at+":26", func(c net.Conn) { echo(c, name+c.RemoteAddr().String()) })
			ns.Serve("tcp", at+":27", func(c net.Conn) { _, _ = fmt.Fprintln(c, name+c.RemoteAddr().String()) })
		}
	}
	return l
}

// transparentServices are where clients connect, with the address that backends
// are to see.
func transparentServices() map[string]string {
	return map[string]string{"10.1.0.1:26": "10.1.0.2", "[fd01::1]:26": "fd01::2"}
}

// seen are the backend and the client of what a server said.
func seen(line string) (backend, client string) {
	backend, peer, _ := strings.Cut(strings.TrimSpace(line), " ")
	at, _ := netip.ParseAddrPort(peer)
	return backend, at.Addr().String()
}

// seenByBoth fails unless both backends see the client of each service.
func (l *lab) seenByBoth() {
	l.t.Helper()
	for service, want := range transparentServices() {
		served := map[string]bool{}
		for range 200 {
			backend, client := seen(l.who(service))
			if client != want {
				l.t.Fatalf("backend %q of %s saw %s, want %s", backend, service, client, want)
			}
			served[backend] = true
			if len(served) == 2 {
				break
			}
		}
		if len(served) != 2 {
			l.t.Fatalf("only %v served %s", served, service)
		}
	}
}

// synRetransmits is how often the namespace has sent a SYN again, which it does
// after a second.
func synRetransmits(ns *nettest.NS) string {
	var value string
	ns.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			values := strings.Fields(lines[i+1])
			for j, name := range strings.Fields(lines[i]) {
				if name == "TCPSynRetrans" {
					value = values[j]
				}
			}
		}
		return err
	})
	return value
}

// Clients connect to the candidate directly as well, from ports of their own.
func TestATransparentRelayShowsEveryClientsAddressAndDelaysNone(t *testing.T) {
	l := newTransparentLab(t)
	l.start()
	if s := l.status(); !s.Kernel.Synced() {
		t.Errorf("status says that the kernel is not in sync: %+v", s.Kernel)
	}
	before := [2]string{synRetransmits(l.client), synRetransmits(l.router)}
	const times, workers = 1000, 4
	var mu sync.Mutex
	served := map[string]int{}
	var failed []error
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			err := l.client.NS.Do(func() error {
				for range times {
					for at, want := range map[string]string{
						"10.1.0.1:27": "10.1.0.2", "[fd01::1]:27": "fd01::2", "10.1.0.1:26": "10.1.0.2",
						"10.2.0.2:27": "10.1.0.2", "[fd02::2]:27": "fd01::2",
					} {
						line, err := askOnce(at)
						backend, client := seen(line)
						if err == nil && client != want {
							err = fmt.Errorf("%s saw %s", backend, client)
						}
						mu.Lock()
						failed = append(failed, err)
						served[at+" by "+backend]++
						mu.Unlock()
					}
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, err)
		})
	}
	group.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Errorf("of %d connections to each service: %v", times*workers, err)
	}
	t.Logf("served: %v", served)
	for _, service := range []string{"10.1.0.1:26", "10.1.0.1:27", "[fd01::1]:27"} {
		for _, backend := range []string{"old", "new"} {
			if served[service+" by "+backend] == 0 {
				t.Errorf("%s served nobody at %s", backend, service)
			}
		}
	}
	if after := [2]string{synRetransmits(l.client), synRetransmits(l.router)}; after != before {
		t.Errorf("SYNs were sent again, by client and router: %v, before %v", after, before)
	}
	for _, b := range l.status().Backends {
		if b.ConnectFailed == nil || *b.ConnectFailed != 0 {
			t.Errorf("backend %q has failed connects: %v", b.Name, b.ConnectFailed)
		}
	}
}

// askOnce is what a server says; it reads to the end where the server ends.
func askOnce(address string) (string, error) {
	c, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err == nil && strings.HasSuffix(address, ":27") {
		_, err = io.Copy(io.Discard, r)
	}
	return line, err
}

// wantEcho fails unless the flow works.
func wantEcho(t *testing.T, what string, c net.Conn, r *bufio.Reader) {
	t.Helper()
	if _, err := c.Write([]byte("hello\n")); err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if line, err := r.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("%s: the flow answers %q, %v", what, line, err)
	}
}

func TestWhatATransparentRelayNeedsIsMendedUnderOpenFlows(t *testing.T) {
	l := newTransparentLab(t)
	l.start()
	type open struct {
		net.Conn
		*bufio.Reader
	}
	flows := map[string]open{}
	for len(flows) < 4 { // both backends, both families
		for service := range transparentServices() {
			c, r, line := l.dial(service)
			backend, _ := seen(line)
			flows[service+" by "+backend] = open{c, r}
		}
	}
	for _, deed := range []struct {
		what string
		do   func()
	}{
		{"nft flush ruleset", l.reboot},
		{"ip rule del", func() { l.deleteRules(5217) }},
		{"ip rule del of the loopback's", func() { l.deleteRules(5218) }},
		{"nft flush ruleset once more, long after the start", l.reboot}, // which may have missed who did the first
	} {
		deed.do()
		l.eventually("after "+deed.what+" the kernel is as wanted", func() bool { return l.ctl("plan", "--exit-code").code == 0 })
		l.seenByBoth()
		for which, f := range flows {
			wantEcho(t, deed.what+": "+which, f.Conn, f.Reader)
		}
	}
	l.names("table inet splitd_legs is missing")
}

// deleteRules removes the ip rules of that priority, of both families.
func (l *lab) deleteRules(priority int) {
	l.t.Helper()
	l.router.Do(func() error {
		rules, err := netlink.RuleList(netlink.FAMILY_ALL)
		for _, r := range rules {
			if r.Priority == priority {
				err = errors.Join(err, netlink.RuleDel(&r))
			}
		}
		return err
	})
}

func TestATransparentSplitComesAndGoesWithoutATrace(t *testing.T) {
	l := newTransparentLab(t)
	furnish(t, l.router)
	opaque := strings.Replace(transparentConfig, "transparent: true", "transparent: false", 1)
	l.configure(opaque)
	l.start()
	before := l.snapshot() // nothing is in the kernel yet
	for service, client := range transparentServices() {
		if _, got := seen(l.who(service)); got == client {
			t.Fatalf("a backend of %s saw its client %s, and nothing is transparent", service, got)
		}
	}
	l.configure(transparentConfig)
	l.ok("apply")
	l.seenByBoth()
	if text := l.ok("plan").stdout; !containsAll(text, []string{"table inet splitd_legs {", "fwmark 0x18000000/0xf8000000 lookup 5315", "from 127.0.0.1 sport 26 lookup 5315", "local default dev lo table 5315"}) {
		t.Errorf("plan does not say what the relay needs:\n%s", text)
	}
	l.ok("set", "mx", "100%")
	l.kill() // as a crash does
	stood := l.snapshot()
	l.succeeds("restore")
	if lines := stood.Differences(l.snapshot()); len(lines) > 0 {
		t.Errorf("restore changed something: %q", lines)
	}
	l.start()
	c, r, line := l.dial("10.1.0.1:26")
	if backend, client := seen(line); backend != "new" || client != "10.1.0.2" {
		t.Fatalf("after a crash %q saw %s", backend, client)
	}
	l.configure(opaque)
	l.ok("apply")
	wantEcho(t, "after the reload", c, r)
	if _, got := seen(l.who("10.1.0.1:26")); got == "10.1.0.2" {
		t.Error("a new flow is transparent yet")
	}
	if r := l.ok("plan", "--exit-code"); r.code != 0 {
		t.Errorf("while a flow is open there are differences: %s", r.stdout)
	}
	_ = c.Close()
	l.stop()
	l.eventually("cleanup leaves no trace", func() bool {
		l.succeeds("cleanup")
		return len(before.Differences(l.snapshot())) == 0
	})
}

func TestATransparentSplitWithoutTheCapabilityIsRefusedWithItsCure(t *testing.T) {
	l := newTransparentLab(t)
	const want = `split "mx": proxy.transparent needs CAP_NET_ADMIN: run splitd as root, grant the capability, or set transparent: false`
	refused := exec.Command(programs.Path(t, "splitd"), "run", "--config", l.config)
	unprivileged(refused)
	said := &programs.Output{}
	refused.Stderr = said
	if err := l.router.Start(refused); err != nil {
		t.Fatal(err)
	}
	if err := refused.Wait(); err == nil || !strings.Contains(said.String(), want) {
		t.Errorf("run: %v, %s; want %s", err, said, want)
	}
	// A daemon that runs without it serves on as it did.
	other := strings.NewReplacer("[26/tcp, 27/tcp]", "[2626/tcp]", "[local]", `["127.0.0.1:26", "[::1]:26"]`,
		"[10.2.0.2,", `["10.2.0.2:26",`, `"fd02::2"]`, `"[fd02::2]:26"]`).Replace(transparentConfig)
	l.configure(strings.Replace(other, "transparent: true", "transparent: false", 1))
	l.daemon = exec.Command(programs.Path(t, "splitd"), "run", "--config", l.config)
	unprivileged(l.daemon)
	l.daemon.Stderr = l.log
	if err := l.router.Start(l.daemon); err != nil {
		t.Fatal(err)
	}
	go func(c *exec.Cmd) { _ = c.Wait() }(l.daemon)
	l.eventually("it answers", func() bool { return l.ctl("status").code == 0 })
	l.configure(other)
	if r := l.ctl("apply"); r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("apply: exit %d, %s; want 1, %s", r.code, r.stderr, want)
	}
	if backend, client := seen(l.who("10.1.0.1:2626")); backend == "" || client == "10.1.0.2" {
		t.Errorf("after the refusal %q saw %s", backend, client)
	}
}
