//go:build e2ereal

package real

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

// The addresses of the network (RFC 5737, RFC 3849, RFC 4193): those that
// clients know, and those of the new host.
const (
	serviceV4, serviceV6 = "192.0.2.25", "2001:db8::25"
	newV4, newV6         = "10.0.0.12", "fd00:25::12"
)

// lab is the network of a migration:
//
//	client1 ─┐
//	client2 ─┼─ lan ─── old host and router ─── new host
//	client3 ─┘            splitd splits           splitd: the way back
//
// The new host has no route to the clients, and the router's firewall lets
// nothing new through that was not sent on by destination NAT.
type lab struct {
	t         testing.TB
	clients   []*client
	old, new  *nettest.NS
	dir       string
	splitting *daemon
	returning *daemon
	before    map[*nettest.NS]string
}

// client is a host of its own with an address in each family.
type client struct {
	*nettest.NS
	v4, v6 netip.Addr
}

// daemon is one `splitd run`.
type daemon struct {
	*server
	ns             *nettest.NS
	config, socket string
}

// checkers are the addresses that the router's health checks of a host's servers
// come from.
func checkers(host string) []string {
	if host == "old" {
		return []string{serviceV4, serviceV6} // the router's own servers
	}
	return []string{"10.0.0.1", "fd00:25::1"}
}

// Both daemons are told everything that they decide with.
const oldConfig = `
control: {socket: %[1]s/splitd.sock, group: mail}
http: {listen: "127.0.0.1:9480"}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    protocol: smtp
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.0.0.12, "fd00:25::12"], weight: 0%%}
  - name: web
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [80/tcp]}
    protocol: http
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.0.0.12, "fd00:25::12"], weight: 0%%}
`

const newConfig = `
control: {socket: %[1]s/splitd.sock, group: mail}
http: {listen: ""}
state_dir: %[1]s/state
return_paths:
  - {name: old-mx,   via: 10.0.0.1,     device: eth0, match: address, address: 10.0.0.12}
  - {name: old-mx-6, via: "fd00:25::1", device: eth0, match: address, address: "fd00:25::12"}
`

// What others have put there before us.
const (
	oldRuleset = `
table inet firewall {
	set friends { type ipv4_addr; elements = { 203.0.113.7, 203.0.113.9 }; }
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		ct status dnat accept
		ip saddr @friends accept
	}
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		tcp dport 8025 redirect to :25
	}
}
`
	newRuleset = `
table ip guard {
	chain input {
		type filter hook input priority filter; policy accept;
		ct state invalid drop
	}
}
`
	othersRules = `
ip rule add pref 5100 fwmark 0x42 lookup 5100
ip -6 rule add pref 5100 fwmark 0x42 lookup 5100
ip route add 203.0.113.0/24 dev eth0 table 5100
ip -6 route add 2001:db8:42::/64 dev eth0 table 5100
`
)

// newLab makes the network and furnishes it, with no splitd in it yet.
func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, dir: openDir(t), before: make(map[*nettest.NS]string)}
	l.old, l.new = nettest.New(t, "old"), nettest.New(t, "new")
	l.old.Sysctl("net/ipv4/ip_forward", "1")
	l.old.Sysctl("net/ipv6/conf/all/forwarding", "1")
	for _, ns := range []*nettest.NS{l.old, l.new} {
		// Namespaces may inherit a strict setting from the machine.
		ns.Sysctl("net/ipv4/conf/all/rp_filter", "0")
		ns.Sysctl("net/ipv4/conf/default/rp_filter", "0")
	}
	l.wireClients(3)
	nettest.Link(t, l.old, "eth1", []string{"10.0.0.1/24", "fd00:25::1/64"}, l.new, "eth0", []string{newV4 + "/24", newV6 + "/64"})
	if err := l.old.AddAddresses("lo", serviceV4+"/32", serviceV6+"/128"); err != nil {
		t.Fatal(err)
	}
	for ns, ruleset := range map[*nettest.NS]string{l.old: oldRuleset, l.new: newRuleset} {
		ns.Run("nft", "-f", write(t, filepath.Join(l.dir, ns.Name+"-others.nft"), ruleset))
		ns.Run("sh", "-ec", othersRules)
		l.before[ns] = kernelText(ns)
	}
	l.install()
	return l
}

// install copies the programs to where every user can run them.
func (l *lab) install() {
	l.t.Helper()
	for _, name := range []string{"splitd", "splitctl"} {
		program, err := os.ReadFile(programs.Path(l.t, name))
		if err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(l.program(name), program, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
}

// program is the path of the installed program.
func (l *lab) program(name string) string { return filepath.Join(l.dir, name) }

// wireClients joins clients and router by a switch.
func (l *lab) wireClients(n int) {
	l.t.Helper()
	lan := nettest.New(l.t, "lan")
	lan.Run("ip", "link", "add", "br0", "type", "bridge")
	nettest.Link(l.t, l.old, "eth0", []string{"198.51.100.1/24", "2001:db8:c::1/64"}, lan, "port0", nil)
	for i := 1; i <= n; i++ {
		c := &client{
			NS: nettest.New(l.t, fmt.Sprintf("client%d", i)),
			v4: netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", 9+i)),
			v6: netip.MustParseAddr(fmt.Sprintf("2001:db8:c::%d", 9+i)),
		}
		nettest.Link(l.t, c.NS, "eth0", []string{c.v4.String() + "/24", c.v6.String() + "/64"}, lan, fmt.Sprintf("port%d", i), nil)
		l.clients = append(l.clients, c)
	}
	for i := range n + 1 {
		lan.Run("ip", "link", "set", fmt.Sprintf("port%d", i), "master", "br0")
	}
	lan.Run("ip", "link", "set", "br0", "up")
	for _, c := range l.clients {
		c.Route("0.0.0.0/0", "198.51.100.1")
		c.Route("::/0", "2001:db8:c::1")
	}
}

// start starts both daemons and waits until all is in force.
func (l *lab) start() {
	l.t.Helper()
	l.returning = l.startDaemon(l.new, newConfig, nil)
	l.splitting = l.startDaemon(l.old, oldConfig, nil)
}

// startDaemon runs splitd in the namespace, as root when as is nil, with a
// directory of its own that the configuration has as %[1]s.
func (l *lab) startDaemon(ns *nettest.NS, format string, as *syscall.Credential) *daemon {
	l.t.Helper()
	home := filepath.Join(l.dir, ns.Name)
	if err := os.Mkdir(home, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if as != nil {
		if err := os.Chown(home, int(as.Uid), int(as.Gid)); err != nil {
			l.t.Fatal(err)
		}
	}
	d := &daemon{
		ns:     ns,
		config: write(l.t, filepath.Join(home, "splitd.yaml"), fmt.Sprintf(format, home)),
		socket: filepath.Join(home, "splitd.sock"),
	}
	l.run(d, as)
	return d
}

// run starts the daemon, and waits until it answers.
func (l *lab) run(d *daemon, as *syscall.Credential) {
	l.t.Helper()
	cmd := exec.Command(l.program("splitd"), "run", "--config", d.config)
	d.server = serve(l.t, d.ns, "splitd on the "+d.ns.Name+" host", as, false, cmd)
	d.until("answers", func() bool {
		c, err := net.Dial("unix", d.socket)
		return err == nil && c.Close() == nil
	})
}

// restart stops the daemon, and starts it again, as root.
func (l *lab) restart(d *daemon) {
	l.t.Helper()
	d.stop()
	l.run(d, nil)
}

// stop ends the daemon as a service manager does.
func (d *daemon) stop() {
	d.t.Helper()
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	d.awaitEnd()
}

// leave stops both daemons, cleans up after them, and compares what the tools
// print with what they printed before the first one ran. All connections must
// have ended.
func (l *lab) leave() {
	l.t.Helper()
	l.leaveBut(func(text string) string { return text })
}

// leaveBut is leave that compares only a part of each text.
func (l *lab) leaveBut(part func(string) string) {
	l.t.Helper()
	for _, d := range []*daemon{l.splitting, l.returning} {
		d.stop()
		l.cleanUp(d)
		if diff := cmp.Diff(part(l.before[d.ns]), part(kernelText(d.ns))); diff != "" {
			l.t.Errorf("the %s host is not as before (-before +after):\n%s", d.ns.Name, diff)
		}
	}
}

// cleanUp runs cleanup as an operator does: again while it says that something
// stays for open flows, which the servers may still be closing.
func (l *lab) cleanUp(d *daemon) {
	l.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		r, err := run(l.t.Context(), d.ns, nil, l.program("splitd"), "cleanup", "--config", d.config)
		if err != nil || r.code != 0 {
			l.t.Errorf("splitd cleanup on the %s host: %v, exit %d, %s", d.ns.Name, err, r.code, r.stderr)
			return
		}
		if strings.Contains(r.stderr, "nothing of splitd is left") {
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("splitd cleanup on the %s host still says %s", d.ns.Name, r.stderr)
			return
		}
	}
}

// kernelText is what the tools of nftables and iproute2 print of a namespace:
// the ruleset with its handles, so that a rule made anew is another one, the
// rules and all routes.
func kernelText(ns *nettest.NS) string {
	var text strings.Builder
	for _, command := range []string{
		"nft -a list ruleset", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all",
	} {
		words := strings.Fields(command)
		fmt.Fprintf(&text, "$ %s\n%s", command, ns.Run(words[0], words[1:]...))
	}
	return text.String()
}

// withoutHandles leaves out the handles that nft prints behind rules.
func withoutHandles(text string) string {
	return regexp.MustCompile(` # handle \d+`).ReplaceAllString(text, "")
}

// ctl runs splitctl against the daemon that splits, as whoever attr says.
func (l *lab) ctl(ctx context.Context, attr *syscall.SysProcAttr, args ...string) (result, error) {
	return run(ctx, l.old, attr, l.program("splitctl"), append([]string{"--socket", l.splitting.socket}, args...)...)
}

// ok runs splitctl as root and fails the test unless it exits 0.
func (l *lab) ok(args ...string) string {
	l.t.Helper()
	r, err := l.ctl(l.t.Context(), nil, args...)
	if err != nil || r.code != 0 {
		l.t.Fatalf("splitctl %q: %v, exit %d\n%s%s", args, err, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// ask runs splitctl with JSON output and reads it.
func ask[T any](l *lab, args ...string) T {
	l.t.Helper()
	var answer T
	if err := json.Unmarshal([]byte(l.ok(append(args, "-o", "json")...)), &answer); err != nil {
		l.t.Fatalf("splitctl %q: %v", args, err)
	}
	return answer
}

// status is the state of a split.
func (l *lab) status(split string) api.Split {
	l.t.Helper()
	list := ask[api.SplitList](l, "status", split)
	if len(list.Items) != 1 {
		l.t.Fatalf("status %s lists %d splits, want 1", split, len(list.Items))
	}
	return list.Items[0]
}
