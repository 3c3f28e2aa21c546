package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/splitd/splitd/internal/netns"
)

// The addresses of the network (RFC 5737, RFC 3849, RFC 4193).
const (
	serviceV4, serviceV6 = "192.0.2.25", "2001:db8::25"
	newV4, newV6         = "10.0.0.12", "fd00:25::12"
	viaV4, viaV6         = "10.0.0.1", "fd00:25::1" // the router, as the new MX sees it
	lanV4, lanV6         = "198.51.100.1", "2001:db8:c::1"
)

func clientAddresses() []string {
	return []string{
		"198.51.100.10", "2001:db8:c::10",
		"198.51.100.11", "2001:db8:c::11",
		"198.51.100.12", "2001:db8:c::12",
	}
}

// network is the stage of the kernel plane: three network namespaces, of which
// the middle one is the router and the old MX.
type network struct {
	clients, old, new *netns.NS
	before            map[*netns.NS]netns.Snapshot
}

func (*network) plane() string { return "kernel" }

func (*network) drawing() string {
	return `  three clients                the old MX, also the router       the new MX
 +----------------------+     +-----------------------------+    +-------------------+
 | 198.51.100.10 to .12 |-----| 192.0.2.25 port 25          |----| 10.0.0.12         |
 | 2001:db8:c::10 to 12 |     | 2001:db8::25                |    | fd00:25::12       |
 +----------------------+     | splitd: share sent to new   |    | splitd: the way   |
                              |   by nftables in the kernel |    |   back for replies|
                              +-----------------------------+    +-------------------+
 Clients know 192.0.2.25 and 2001:db8::25 only. The new MX has no route to the clients.
`
}

// forbidden says whether the error means that this machine does not let us make
// such a network, as opposed to a fault of ours.
func forbidden(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EPERM, syscall.EACCES, syscall.EROFS, syscall.ENOSPC, syscall.EOPNOTSUPP, syscall.ENOSYS,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// build makes the network. An error that wraps netns.ErrForbidden means that
// the machine does not allow it.
func (n *network) build() error {
	if err := n.wire(); err != nil {
		n.close()
		if forbidden(err) {
			return fmt.Errorf("%w: %w", netns.ErrForbidden, err)
		}
		return err
	}
	return nil
}

func (n *network) wire() error {
	for _, room := range []struct {
		name string
		ns   **netns.NS
	}{{"clients", &n.clients}, {"old", &n.old}, {"new", &n.new}} {
		ns, err := netns.New(room.name)
		if err != nil {
			return err
		}
		*room.ns = ns
	}
	for _, setting := range []struct {
		ns          *netns.NS
		name, value string
	}{
		{n.old, "net/ipv4/ip_forward", "1"},
		{n.old, "net/ipv6/conf/all/forwarding", "1"},
		// Namespaces may inherit a strict setting from the machine.
		{n.old, "net/ipv4/conf/all/rp_filter", "0"},
		{n.old, "net/ipv4/conf/default/rp_filter", "0"},
		{n.new, "net/ipv4/conf/all/rp_filter", "0"},
		{n.new, "net/ipv4/conf/default/rp_filter", "0"},
	} {
		if err := setting.ns.Sysctl(setting.name, setting.value); err != nil {
			return err
		}
	}
	var clients []string
	for _, address := range clientAddresses() {
		clients = append(clients, withPrefix(address))
	}
	return errors.Join(
		netns.Link(
			netns.End{NS: n.clients, Device: "eth0", Addresses: clients},
			netns.End{NS: n.old, Device: "eth0", Addresses: []string{withPrefix(lanV4), withPrefix(lanV6)}}),
		netns.Link(
			netns.End{NS: n.old, Device: "eth1", Addresses: []string{withPrefix(viaV4), withPrefix(viaV6)}},
			netns.End{NS: n.new, Device: "eth0", Addresses: []string{withPrefix(newV4), withPrefix(newV6)}}),
		n.old.AddAddresses("lo", serviceV4+"/32", serviceV6+"/128"),
		n.clients.AddRoute("0.0.0.0/0", lanV4),
		n.clients.AddRoute("::/0", lanV6),
	)
}

func withPrefix(address string) string {
	if strings.Contains(address, ":") {
		return address + "/64"
	}
	return address + "/24"
}

const oldConfig = `# The old MX, which is also the router: it splits.
control: {socket: %q}
http: {listen: "127.0.0.1:9480"}
state_dir: %q
shadow: {priority: normal} # a demo's clients may wait for it
splits:
  - name: mx
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    protocol: smtp
    mode: kernel
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.0.0.12, "fd00:25::12"], weight: 0%%}
%s`

const newConfig = `# The new MX: replies go back through the old one.
control: {socket: %q}
http: {listen: "127.0.0.1:9480"}
state_dir: %q
return_paths:
  - {name: old-mx,   via: 10.0.0.1,     device: eth0, match: address, address: 10.0.0.12}
  - {name: old-mx-6, via: "fd00:25::1", device: eth0, match: address, address: "fd00:25::12"}
`

// open starts everybody in his namespace. The snapshots are taken before the
// first splitd runs.
func (n *network) open(ctx context.Context, c *cast) error {
	if err := n.hosts(ctx, c); err != nil {
		return err
	}
	for _, side := range []struct {
		ns                *netns.NS
		name, config, job string
		more              []any // in the configuration
	}{
		{n.new, newMX, newConfig, "on the new MX: replies to clients go back through the old one", nil},
		{n.old, oldMX, oldConfig, "on the old MX: new connections to port 25 are split", []any{c.shadowTLS()}},
	} {
		d := c.newDaemon("splitd on the "+side.name+" MX", side.name, side.job)
		config := fmt.Sprintf(side.config, append([]any{d.socket, d.state}, side.more...)...)
		if err := c.startDaemon(ctx, place{ns: side.ns, dir: c.dir}, d, config); err != nil {
			return err
		}
		c.socket = d.socket
	}
	return nil
}

// hosts starts the mail servers and the clients.
func (n *network) hosts(ctx context.Context, c *cast) error {
	_, oldErr := c.startMX(ctx, place{ns: n.old, dir: c.dir}, oldMX, serviceV4+":25", "["+serviceV6+"]:25")
	_, newErr := c.startMX(ctx, place{ns: n.new, dir: c.dir}, newMX, newV4+":25", "["+newV6+"]:25")
	if err := errors.Join(oldErr, newErr, c.startClients(ctx, place{ns: n.clients, dir: c.dir})); err != nil {
		return err
	}
	for _, address := range clientAddresses() {
		w := way{From: netip.MustParseAddr(address), To: netip.MustParseAddrPort(serviceV4 + ":25"), Ports: manyPorts}
		if w.From.Is6() {
			w.To = netip.MustParseAddrPort("[" + serviceV6 + "]:25")
		}
		c.ways = append(c.ways, w)
	}
	n.before = make(map[*netns.NS]netns.Snapshot)
	for _, ns := range []*netns.NS{n.old, n.new} {
		snapshot, err := ns.Snapshot()
		if err != nil {
			return err
		}
		n.before[ns] = snapshot
	}
	return nil
}

// prove shows what only this plane can: real addresses, and by which way
// replies came back. The daemons are still running.
func (n *network) prove(v verdict) []claim {
	return []claim{addressClaim(v), n.routeClaim(), n.flowClaim(v)}
}

func addressClaim(v verdict) claim {
	var v4, v6 int
	seen := v.Clients[newMX]
	for address, n := range seen {
		if address.Is4() {
			v4 += n
		} else {
			v6 += n
		}
	}
	if len(v.Strangers) > 0 {
		return claim{text: "an MX saw another client address than the real one", why: v.Strangers}
	}
	if len(seen) != len(clientAddresses()) {
		return claimf(false, "the new MX saw %d of the clients' %d addresses", len(seen), len(clientAddresses()))
	}
	return claimf(true, "the new MX saw the real client of every mail: %d over IPv4, %d over IPv6, all %d addresses", v4, v6, len(seen))
}

// routeClaim asks the new MX's kernel by which way it reaches clients: with its
// own address through the old MX, otherwise not at all.
func (n *network) routeClaim() claim {
	c := claimf(true, "the new MX reaches clients through the old MX and by no other way")
	for _, text := range clientAddresses() {
		client, own, via := netip.MustParseAddr(text), netip.MustParseAddr(newV4), netip.MustParseAddr(viaV4)
		if client.Is6() {
			own, via = netip.MustParseAddr(newV6), netip.MustParseAddr(viaV6)
		}
		if got, err := n.new.WayTo(client, own); err != nil || got != via {
			c.why = append(c.why, fmt.Sprintf("replies to %s go by %v, not by %s (%v)", client, got, via, err))
		}
		if got, err := n.new.WayTo(client, netip.Addr{}); !errors.Is(err, netns.ErrNoWay) {
			c.why = append(c.why, fmt.Sprintf("there is a way to %s without the return path: %v (%v)", client, got, err))
		}
	}
	if c.why != nil {
		c.holds, c.text = false, "the new MX has other ways to clients than the one through the old MX"
	}
	return c
}

// flowClaim counts in the old MX's connection table the flows that the new MX
// answered through it.
func (n *network) flowClaim(v verdict) claim {
	flows, err := n.old.Flows()
	if err != nil {
		return claimf(false, "the old MX's connection table: %v", err)
	}
	answered := 0
	for _, f := range flows {
		backend := f.Backend.Addr().String()
		translated := f.Service.Addr() != f.Backend.Addr() // health checks are not
		if translated && f.Service.Port() == 25 && f.Replied && f.Assured && (backend == newV4 || backend == newV6) {
			answered++
		}
	}
	if answered != v.Arrived[newMX] {
		return claimf(false, "%d mails arrived at the new MX, but its replies came back through the old MX in %d flows", v.Arrived[newMX], answered)
	}
	return claimf(true, "replies came back through the old MX: %d flows in its connection table, one for each mail at the new MX", answered)
}

// leave runs `splitd cleanup` on both hosts and compares them with before.
func (n *network) leave(ctx context.Context, c *cast, s *show) claim {
	var why []string
	for _, d := range c.daemons {
		command := []string{"cleanup", "--config", d.config}
		output, err := cleanUp(ctx, d, c.splitd, command)
		s.command(append([]string{"splitd"}, command...), output)
		if err != nil {
			why = append(why, fmt.Sprintf("splitd cleanup in %q: %v", d.place.ns.Name, err))
		}
	}
	for _, ns := range []*netns.NS{n.old, n.new} {
		before, ok := n.before[ns]
		if !ok {
			continue // the story ended before it began
		}
		after, err := ns.Snapshot()
		if err != nil {
			why = append(why, err.Error())
			continue
		}
		for _, difference := range before.Differences(after) {
			why = append(why, fmt.Sprintf("%s MX: %s", ns.Name, difference))
		}
	}
	if why != nil {
		return claim{text: "the old and the new MX are not as before", why: why}
	}
	return claimf(true, "ruleset, rules, routes and sysctls of both MXs are the same text as before")
}

// cleanUp runs `splitd cleanup`, again while it says that something stays for
// open flows: a server may still be closing its last connections.
func cleanUp(ctx context.Context, d *daemon, splitd string, command []string) (output string, err error) {
	for range 50 {
		output, err = d.place.run(ctx, exec.Command(splitd, command...))
		if err != nil || strings.Contains(output, "nothing of splitd is left") {
			return output, err
		}
		select {
		case <-ctx.Done():
			return output, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return output, nil
}

func (n *network) close() {
	for _, ns := range []*netns.NS{n.clients, n.old, n.new} {
		if ns != nil {
			_ = ns.Close()
		}
	}
}
