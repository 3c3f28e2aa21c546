//go:build soak

package soak

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

const metricsAt = "127.0.0.1:9480"

// configuration has a split of the kernel plane, and one for each thing that the
// relay does: TCP, UDP, PROXY headers in and out, clients' addresses. The
// candidate of relayed and asked fails in turns, the others never do.
const configuration = `
control: {socket: %[1]s/splitd.sock}
http: {listen: "127.0.0.1:9480"}
state_dir: %[1]s/state
log: {level: warn}
splits:
  - name: relayed
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [2525/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["10.2.0.2:25", "[fd02::2]:25"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:26", "[fd02::2]:26"], weight: 0%%}
    proxy: {idle_timeout: 5s, connect_timeout: 300ms}
    health: {interval: 1s, timeout: 500ms}
  - name: routed
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:27", "[fd02::2]:27"], weight: 0%%}
    return: gateway
  - name: asked
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [5353/udp]}
    mode: proxy
    primary: {name: old, addresses: ["10.2.0.2:25", "[fd02::2]:25"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:26", "[fd02::2]:26"], weight: 0%%}
    udp_timeout: %[2]s
  - name: headed
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [2527/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["10.2.0.2:28", "[fd02::2]:28"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:29", "[fd02::2]:29"], weight: 0%%}
    proxy: {accept_proxy: [10.1.0.0/24, "fd01::/64"], send_proxy: v2, max_client_flows: 1000}
  - name: seen
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [2528/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["10.2.0.2:30", "[fd02::2]:30"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:31", "[fd02::2]:31"], weight: 0%%}
    proxy: {transparent: true}
`

// visiting is what every other reload adds, and takes away again.
const visiting = `
  - name: visiting
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [2526/tcp, 2526/udp]}
    mode: proxy
    primary: {name: old, addresses: ["10.2.0.2:25", "[fd02::2]:25"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:27", "[fd02::2]:27"], weight: 10%}
    health: {check: none}
    udp_timeout: 5s
`

// lab is a client, a router that runs splitd, and the host of the backends, each
// in a namespace of its own.
type lab struct {
	client, router, host *nettest.NS
	dir, config          string
	daemon               *exec.Cmd
	died                 chan error
	log                  *programs.Output
	control              *client.Client
	candidate            *candidate
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{dir: t.TempDir(), died: make(chan error, 1), log: &programs.Output{}}
	l.client, l.router, l.host = nettest.New(t, "client"), nettest.New(t, "router"), nettest.New(t, "host")
	nettest.Link(t, l.client, "eth0", []string{"10.1.0.2/24", "fd01::2/64"}, l.router, "eth0", []string{"10.1.0.1/24", "fd01::1/64"})
	nettest.Link(t, l.host, "eth0", []string{"10.2.0.2/24", "fd02::2/64"}, l.router, "eth1", []string{"10.2.0.1/24", "fd02::1/64"})
	for ns, gateway := range map[*nettest.NS]string{l.client: "1", l.host: "2"} {
		ns.Route("0.0.0.0/0", "10."+gateway+".0.1")
		ns.Route("::/0", "fd0"+gateway+"::1")
	}
	l.router.Sysctl("net/ipv4/ip_forward", "1")
	l.router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, ns := range []*nettest.NS{l.client, l.router} { // TIME_WAIT lasts a minute
		ns.Sysctl("net/ipv4/ip_local_port_range", "3000 65000")
	}
	if err := l.router.AddAddresses("lo", "192.0.2.25/32", "2001:db8::25/128"); err != nil {
		t.Fatal(err)
	}
	l.config = filepath.Join(l.dir, "splitd.yaml")
	l.control = &client.Client{Socket: filepath.Join(l.dir, "splitd.sock"), Timeout: patience}
	l.candidate = &candidate{t: t, ns: l.host, addresses: []string{"10.2.0.2:26", "[fd02::2]:26"}}
	l.serve(t)
	t.Cleanup(l.candidate.end)
	return l
}

// serve starts the backends.
func (l *lab) serve(t *testing.T) {
	t.Helper()
	for _, wildcard := range []string{"0.0.0.0", "[::]"} {
		network := "tcp4"
		if wildcard == "[::]" {
			network = "tcp6"
		}
		l.router.Serve(network, wildcard+":25", func(c net.Conn) { serve(c, "old") })
		for port, name := range map[string]string{"25": "old", "27": "new", "30": "old", "31": "new"} {
			l.host.Serve(network, wildcard+":"+port, func(c net.Conn) { serve(c, name) })
		}
		for port, name := range map[string]string{"28": "old", "29": "new"} {
			l.host.Serve(network, wildcard+":"+port, func(c net.Conn) { serveHeaded(c, name) })
		}
	}
	for _, at := range []string{"10.2.0.2", "[fd02::2]"} {
		for port, name := range map[string]string{"25": "old", "27": "new"} {
			l.host.Do(func() error {
				end, err := serveQuestions(at+":"+port, name)
				if err == nil {
					t.Cleanup(end)
				}
				return err
			})
		}
	}
	l.candidate.become(l.candidate.up)
}

// configure writes the configuration, which another process may be reading.
func (l *lab) configure(more string) error {
	next := l.config + ".new"
	if err := os.WriteFile(next, append(fmt.Appendf(nil, configuration, l.dir, forgotten), more...), 0o600); err != nil {
		return err
	}
	return os.Rename(next, l.config)
}

// start runs splitd and waits until it answers.
func (l *lab) start(t *testing.T) {
	t.Helper()
	if err := l.configure(""); err != nil {
		t.Fatal(err)
	}
	l.daemon = exec.Command(programs.Path(t, "splitd"), "run", "--config", l.config)
	l.daemon.Stderr = l.log
	if err := l.router.Start(l.daemon); err != nil {
		t.Fatal(err)
	}
	go func() { l.died <- l.daemon.Wait() }()
	t.Cleanup(func() {
		_ = l.daemon.Process.Signal(unix.SIGKILL)
		if t.Failed() {
			text := l.log.String()
			t.Logf("the end of what splitd said:\n%s", text[max(len(text)-8000, 0):])
		}
	})
	nettest.Eventually(t, "splitd answers", func() bool {
		_, err := l.control.Splits(t.Context(), "")
		return err == nil
	}, func() any { return l.log.String() })
	// Else a minute of this load fills the table of a small host.
	l.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "5")
}
