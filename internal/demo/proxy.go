package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/splitd/splitd/internal/netns"
)

// loopback is the stage of the proxy plane: the same story on 127.0.0.1 (and
// ::1), for machines that forbid namespaces.
type loopback struct {
	service []netip.AddrPort // where splitd listens, by family
	http    netip.AddrPort
}

func (*loopback) plane() string { return "proxy" }

func (l *loopback) drawing() string {
	addresses := [2]string{}
	for i, s := range l.service {
		addresses[i] = s.String()
	}
	return fmt.Sprintf(`   clients                  splitd, mode proxy           mail servers
 +-----------------+      +----------------------+      +------------+
 | send to         |      | relays each new      |  +-->| the old MX |
 | %-15s |----->| connection to one of |--+   +------------+
 | %-15s |      | the two              |  +-->| the new MX |
 +-----------------+      +----------------------+      +------------+
`, addresses[0], addresses[1])
}

// families lists the loopback addresses that work here.
func families() []netip.Addr {
	usable := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if port, err := freePort([]netip.Addr{netip.IPv6Loopback()}); err == nil && port != 0 {
		usable = append(usable, netip.IPv6Loopback())
	}
	return usable
}

// freePort finds a port that is free on all the addresses.
func freePort(addresses []netip.Addr) (port uint16, err error) {
	for range 20 {
		if port, err = tryPort(addresses); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("find free port on %v: %w", addresses, err)
}

func tryPort(addresses []netip.Addr) (port uint16, err error) {
	for _, address := range addresses {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(address, port)))
		if err != nil {
			return 0, err
		}
		defer func() { _ = l.Close() }()
		port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return port, nil
}

// build finds the addresses to play on. In a namespace that Enter made, the
// loopback is still down.
func (l *loopback) build() error {
	if netns.Inside() {
		if err := netns.LoopbackUp(); err != nil {
			return err
		}
	}
	addresses := families()
	port, err := freePort(addresses)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		l.service = append(l.service, netip.AddrPortFrom(address, port))
	}
	port, err = freePort(addresses[:1])
	l.http = netip.AddrPortFrom(addresses[0], port)
	return err
}

const proxyConfig = `# One splitd that relays: for hosts where nftables may not be used.
control: {socket: %q}
http: {listen: %q}
state_dir: %q
shadow: {priority: normal} # a demo's clients may wait for it
splits:
  - name: mx
    service: {addresses: [%s], ports: [%d/tcp]}
    protocol: smtp
    mode: proxy
    primary: {name: old, addresses: [%s]}
    candidates:
      - {name: new, addresses: [%s], weight: 0%%}
%s`

func (l *loopback) open(ctx context.Context, c *cast) error {
	here := place{dir: c.dir}
	var listen, service []string
	for _, s := range l.service {
		listen = append(listen, netip.AddrPortFrom(s.Addr(), 0).String())
		service = append(service, fmt.Sprintf("%q", s.Addr()))
		c.ways = append(c.ways, way{From: s.Addr(), To: s})
	}
	var backends []string
	for _, name := range []string{oldMX, newMX} {
		e, err := c.startMX(ctx, here, name, listen...)
		if err != nil {
			return err
		}
		var addresses []string
		for _, address := range e.Listening {
			addresses = append(addresses, fmt.Sprintf("%q", address))
		}
		backends = append(backends, strings.Join(addresses, ", "))
	}
	if err := c.startClients(ctx, here); err != nil {
		return err
	}
	d := c.newDaemon("splitd", "splitd", "each new connection is relayed to one of the two MXs")
	c.socket = d.socket
	config := fmt.Sprintf(proxyConfig, d.socket, l.http, d.state,
		strings.Join(service, ", "), l.service[0].Port(), backends[0], backends[1], c.shadowTLS())
	return c.startDaemon(ctx, here, d, config)
}

// prove has nothing to add: what else the kernel plane proves needs namespaces.
func (*loopback) prove(verdict) []claim { return nil }

// leave looks for what a relay that has ended could leave behind: a listener,
// a socket, a state.
func (l *loopback) leave(_ context.Context, c *cast, _ *show) claim {
	var why []string
	for _, address := range append([]netip.AddrPort{l.http}, l.service...) {
		conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(address))
		if err == nil {
			_ = conn.Close()
			why = append(why, fmt.Sprintf("somebody still listens on %s", address))
		}
	}
	for _, d := range c.daemons {
		if err := os.RemoveAll(d.state); err != nil {
			why = append(why, err.Error())
		}
		for _, file := range []string{d.socket, d.state} {
			if _, err := os.Lstat(file); !errors.Is(err, os.ErrNotExist) {
				why = append(why, fmt.Sprintf("%s is still there", file))
			}
		}
	}
	if why != nil {
		return claim{text: "something was left behind", why: why}
	}
	return claimf(true, "nothing is left behind: no listener, no socket, no state")
}

func (*loopback) close() {}
