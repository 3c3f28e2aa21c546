//go:build e2ereal

package real

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

// pair is two routers that share the addresses of one, with the files of
// docs/ha as their configuration.
//
//	client ─ lan ─┬─ eth0 the left router eth1 ─┬─ rack ─┬─ old
//	              │         eth2         │        └─ new
//	              │          │           │
//	              └─ eth0 router b eth1 ─┘
type pair struct {
	*lab
	client    *nettest.NS
	lan, rack *nettest.NS
	routers   []*router
	ports     map[string]bool // of the held flows
}

// router is one of the pair: its splitd, and what Debian brings beside it.
type router struct {
	ns                     *nettest.NS
	lan                    *nettest.NS
	rack                   *nettest.NS
	splitd                 *daemon
	keepalived, conntrackd *server
	sync                   string // conntrackd's configuration
}

// The addresses that the pair shares, and the service of the test.
const (
	pairV4, pairV6 = "198.51.100.25", "2001:db8:c::25"
	oldHostV4      = "10.0.0.11"
	oldHostV6      = "fd00:25::11"
)

// Both routers draw alike: the same splits, word by word.
const pairConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [198.51.100.25, "2001:db8:c::25"], ports: [25/tcp]}
    return: gateway
    primary: {name: old, addresses: [10.0.0.11, "fd00:25::11"]}
    candidates:
      - {name: new, addresses: [10.0.0.12, "fd00:25::12"], weight: 50%%}
`

// newPair makes the network and starts everything; it returns when the left router
// has the addresses.
func newPair(t testing.TB) *pair {
	t.Helper()
	p := &pair{
		lab:    &lab{t: t, dir: openDir(t), old: nettest.New(t, "old"), new: nettest.New(t, "new")},
		client: nettest.New(t, "client"), lan: nettest.New(t, "lan"), rack: nettest.New(t, "rack"),
	}
	p.install()
	for _, ns := range []*nettest.NS{p.lan, p.rack} {
		ns.Run("ip", "link", "add", "br0", "type", "bridge")
		ns.Run("ip", "link", "set", "br0", "up")
	}
	p.plug(p.client, "eth0", p.lan, "198.51.100.10/24", "2001:db8:c::10/64")
	p.plug(p.old, "eth0", p.rack, oldHostV4+"/24", oldHostV6+"/64")
	p.plug(p.new, "eth0", p.rack, newV4+"/24", newV6+"/64")
	for _, host := range []*nettest.NS{p.old, p.new} {
		host.Route("0.0.0.0/0", "10.0.0.1")
		host.Route("::/0", "fd00:25::1")
	}
	for i, name := range []string{"left", "right"} {
		r := &router{ns: nettest.New(t, name), lan: p.lan, rack: p.rack}
		r.ns.Sysctl("net/ipv4/ip_forward", "1")
		r.ns.Sysctl("net/ipv6/conf/all/forwarding", "1")
		p.plug(r.ns, "eth0", p.lan, fmt.Sprintf("198.51.100.%d/24", 2+i), fmt.Sprintf("2001:db8:c::%d/64", 2+i))
		p.plug(r.ns, "eth1", p.rack, fmt.Sprintf("10.0.0.%d/24", 2+i), fmt.Sprintf("fd00:25::%d/64", 2+i))
		p.routers = append(p.routers, r)
	}
	a, b := p.routers[0], p.routers[1]
	nettest.Link(t, a.ns, "eth2", []string{"10.255.25.1/24"}, b.ns, "eth2", []string{"10.255.25.2/24"})
	for _, r := range p.routers {
		r.splitd = p.startDaemon(r.ns, pairConfig, nil)
		r.ns.Run("nft", "-f", p.own(r, "pair.nft", 0o644))
		r.ns.Sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")
		p.startSync(r)
	}
	p.startVRRP(a)
	a.keepalived.until("has the addresses", a.master)
	p.startVRRP(b)
	b.keepalived.until("is the backup", func() bool { return strings.Contains(b.keepalived.said.String(), "Entering BACKUP STATE") })
	return p
}

// plug joins a host to a switch; the port has the host's name.
func (p *pair) plug(host *nettest.NS, device string, to *nettest.NS, addresses ...string) {
	p.t.Helper()
	nettest.Link(p.t, host, device, addresses, to, host.Name, nil)
	to.Run("ip", "link", "set", host.Name, "master", "br0")
}

// own is a file of docs/ha for this router: paths lie in its directory, and of
// what differs between the two it has its own.
func (p *pair) own(r *router, name string, mode os.FileMode) string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs/ha", name))
	if err != nil {
		p.t.Fatal(err)
	}
	home := filepath.Join(p.dir, r.ns.Name)
	mine := strings.NewReplacer("/etc/conntrackd/", home+"/", "/run/", home+"/").Replace(string(text))
	if r == p.routers[1] {
		mine = strings.Replace(mine, "priority 100", "priority 90", 2)
		mine = regexp.MustCompile(`(?m)^( *IPv4_address) 10\.255\.25\.1( +#.*)$`).ReplaceAllString(mine, "$1 10.255.25.2$2")
		mine = strings.Replace(mine, "IPv4_Destination_Address 10.255.25.2", "IPv4_Destination_Address 10.255.25.1", 1)
	}
	path := write(p.t, filepath.Join(home, name), mine)
	if err := os.Chmod(path, mode); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *pair) startSync(r *router) {
	p.t.Helper()
	r.sync = p.own(r, "conntrackd.conf", 0o644)
	r.conntrackd = serve(p.t, r.ns, "conntrackd on "+r.ns.Name, nil, true, exec.Command("conntrackd", "-C", r.sync))
	r.conntrackd.until("answers", func() bool {
		c, err := net.Dial("unix", filepath.Join(filepath.Dir(r.sync), "conntrackd.ctl"))
		return err == nil && c.Close() == nil
	})
}

func (p *pair) startVRRP(r *router) {
	p.t.Helper()
	p.own(r, "splitd-ha", 0o755)
	home := filepath.Dir(r.sync)
	r.keepalived = serve(p.t, r.ns, "keepalived on "+r.ns.Name, nil, true, exec.Command("keepalived", "--vrrp", "--dont-fork", "--log-console",
		"--use-file", p.own(r, "keepalived.conf", 0o644), "--pid", home+"/keepalived.pid", "--vrrp_pid", home+"/vrrp.pid"))
}

// master says whether the router has the shared addresses of both sides.
func (r *router) master() bool {
	all := r.ns.Run("ip", "-o", "address")
	for _, address := range []string{pairV4, pairV6, "10.0.0.1", "fd00:25::1"} {
		if !strings.Contains(all, " "+address+"/") {
			return false
		}
	}
	return true
}

// wired plugs the router's cables in, or pulls them all.
func (r *router) wired(in bool) {
	state := "down"
	if in {
		state = "up"
	}
	// Both ends of the link between the routers go down with one of them.
	r.ns.Run("ip", "link", "set", "eth2", state)
	r.lan.Run("ip", "link", "set", r.ns.Name, state)
	r.rack.Run("ip", "link", "set", r.ns.Name, state)
}

// tracked is what is known of a flow to the service.
type tracked struct {
	mark, backend string // the backend is "" where only one direction is listed
}

// openFlows are those to the service that a text of conntrack or of conntrackd
// lists, by "src=... dst=... sport=... dport=..." of the client's packets.
func openFlows(text string) map[string]tracked {
	flows := map[string]tracked{}
	for line := range strings.Lines(text) {
		var ends []string
		var f tracked
		for word := range strings.FieldsSeq(line) {
			switch name, value, _ := strings.Cut(word, "="); name {
			case "src", "dst", "sport", "dport":
				ends = append(ends, word)
			case "mark":
				f.mark = value
			}
		}
		if len(ends) == 8 {
			f.backend = strings.TrimPrefix(ends[4], "src=")
		}
		if len(ends) >= 4 && ends[3] == "dport=25" && strings.Contains(line, " ESTABLISHED ") {
			flows[strings.Join(ends[:4], " ")] = f
		}
	}
	return flows
}

// inKernel and told are the flows in the router's kernel, and those that its
// conntrackd has been told of by the other one.
func (r *router) inKernel() map[string]tracked {
	return openFlows(r.ns.Run("sh", "-c", "conntrack -L -f ipv4 2>/dev/null; conntrack -L -f ipv6 2>/dev/null"))
}

func (r *router) told() map[string]tracked {
	return openFlows(r.ns.Run("conntrackd", "-C", r.sync, "-e"))
}

// stop ends everything on the router, by its pid.
func (r *router) stop() {
	for _, s := range []*server{r.keepalived, r.conntrackd, r.splitd.server} {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		s.awaitEnd()
	}
}
