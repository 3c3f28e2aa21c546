package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/splitd/splitd/internal/netns"
)

// lab is one client and one server, and between them a router for each way
// that is measured, so that all are loaded at once and nothing is changed
// between two turns. No two ways share an address: a port that one has used
// cannot meet the same port on another (TIME_WAIT and conntrack would make the
// new connection wait).
//
//	client 10.i.1.100-103 - 10.i.1.25 router i 10.i.2.1 - 10.i.2.11 old, .12 new, .13 idle
//
// and the same in IPv6, fd00:i:1::100 and so on. Where all of it is one host,
// client, routers and server are one namespace, and its loopback has the
// addresses, 127.i.1.25 and so on.
type lab struct {
	client, server *netns.NS
	one            bool // host
	ways           []*way
}

// way is how flows get from the client to the backends.
type way struct {
	name   string
	router *netns.NS
	number int
	one    bool // client, router and server are one host
	direct bool // clients know the backends' addresses
	close  func()

	client  *client
	program *program   // that relays or splits, nil without one
	servers []*process // of the way's own, at its backends
}

// Who answers: the letters of the backends.
const (
	letterOld   = 'O'
	letterNew   = 'N'
	letterIdle  = 'I' // has a weight of 0 at all times
	letterLocal = 'L' // the router itself: where a flow ends that no rule has caught
)

func newLab() (*lab, error) {
	l := &lab{}
	var err error
	if l.client, err = netns.New("client"); err != nil {
		return nil, err
	}
	if l.server, err = netns.New("server"); err != nil {
		return nil, err
	}
	return l, errors.Join(
		l.client.Sysctl("net/ipv4/ip_local_port_range", "1024 65535"),
		l.client.Sysctl("net/ipv4/conf/all/rp_filter", "0"), l.server.Sysctl("net/ipv4/conf/all/rp_filter", "0"))
}

// newHost is a lab that is one host. Who listens there may be anybody.
func newHost() (*lab, error) {
	host, err := netns.New("host")
	if err != nil {
		return nil, err
	}
	return &lab{client: host, server: host, one: true}, errors.Join(
		host.Sysctl("net/ipv4/ip_local_port_range", "1024 65535"),
		host.Sysctl("net/ipv4/ip_unprivileged_port_start", "0"))
}

func (l *lab) close() {
	for _, w := range l.ways {
		if w.client != nil {
			w.client.close()
		}
		if w.close != nil {
			w.close()
		}
		for _, p := range w.servers {
			p.stop()
		}
		if !l.one {
			_ = w.router.Close()
		}
	}
	_ = l.client.Close()
	if !l.one {
		_ = l.server.Close()
	}
}

// firstNumber is the i of the first way's addresses.
const firstNumber = 20

// add joins another router to client and server.
func (l *lab) add(name string) (*way, error) {
	w := &way{name: name, number: firstNumber + len(l.ways), one: l.one}
	if l.one {
		w.router = l.client
		l.ways = append(l.ways, w)
		return w, nil
	}
	var err error
	if w.router, err = netns.New(name); err != nil {
		return nil, err
	}
	l.ways = append(l.ways, w)
	outer, inner := fmt.Sprintf("to-client%d", w.number), fmt.Sprintf("to-server%d", w.number)
	err = errors.Join(
		netns.Link(
			netns.End{NS: l.client, Device: outer, Addresses: w.both(1, 100, 101, 102, 103)},
			netns.End{NS: w.router, Device: "client", Addresses: w.both(1, 1, 25)}),
		netns.Link(
			netns.End{NS: l.server, Device: inner, Addresses: w.both(2, 11, 12, 13)},
			netns.End{NS: w.router, Device: "server", Addresses: w.both(2, 1)}))
	if err != nil {
		return nil, err
	}
	return w, errors.Join(
		l.client.AddRoute(w.v4(2, 0).String()+"/24", w.v4(1, 1).String()),
		l.client.AddRoute(w.v6(2, 0).String()+"/64", w.v6(1, 1).String()),
		l.server.AddRoute(w.v4(1, 0).String()+"/24", w.v4(2, 1).String()),
		l.server.AddRoute(w.v6(1, 0).String()+"/64", w.v6(2, 1).String()),
		w.settings())
}

// settings make the router one, and let it forget closed flows soon: its table
// must not be full of those of the last turn.
func (w *way) settings() error {
	for name, value := range map[string]string{
		"net/ipv4/ip_forward":             "1",
		"net/ipv6/conf/all/forwarding":    "1",
		"net/ipv4/conf/all/rp_filter":     "0",
		"net/ipv4/conf/default/rp_filter": "0",
		"net/ipv4/ip_local_port_range":    "1024 65535", // of a relay on the router,
		"net/ipv4/tcp_tw_reuse":           "1",          // which needs both
	} {
		if err := w.router.Sysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}

// forget shortens what conntrack remembers of closed flows. The settings are
// there once a rule of the router uses conntrack.
func (w *way) forget() error {
	for _, name := range []string{"tcp_timeout_close", "tcp_timeout_time_wait", "tcp_timeout_last_ack", "udp_timeout", "udp_timeout_stream"} {
		if err := w.router.Sysctl("net/netfilter/nf_conntrack_"+name, "1"); err != nil {
			return err
		}
	}
	return nil
}

// v4 is an address of the way, on the client's side (1) or the server's (2).
func (w *way) v4(side, host byte) netip.Addr {
	network := byte(10)
	if w.one {
		network = 127
	}
	return netip.AddrFrom4([4]byte{network, byte(w.number), side, host})
}

// v6 is the same in IPv6.
func (w *way) v6(side, host byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: byte(w.number), 5: side, 15: host})
}

// both are addresses in both families.
func (w *way) both(side byte, hosts ...byte) []string {
	var all []string
	for _, host := range hosts {
		all = append(all, w.v4(side, host).String()+"/24", w.v6(side, host).String()+"/64")
	}
	return all
}

// Hosts of the addresses.
const (
	hostService               = 25
	hostOld, hostNew, hostNot = 11, 12, 13
)

// ends are where the flows of the way go from and to.
func (w *way) ends(port uint16, six bool) ends {
	of := w.v4
	if six {
		of = w.v6
	}
	var e ends
	for host := range byte(4) {
		e.from = append(e.from, of(1, 100+host))
	}
	if w.direct {
		e.to = []netip.AddrPort{netip.AddrPortFrom(of(2, hostOld), port), netip.AddrPortFrom(of(2, hostNew), port)}
	} else {
		e.to = []netip.AddrPort{netip.AddrPortFrom(of(1, hostService), port)}
	}
	return e
}

// backends are what the server of the lab listens on for the way.
func (w *way) backends() []listener {
	var all []listener
	for _, of := range []func(side, host byte) netip.Addr{w.v4, w.v6} {
		all = append(all,
			listener{of(2, hostOld), letterOld}, listener{of(2, hostNew), letterNew}, listener{of(2, hostNot), letterIdle})
		if w.one { // in IPv4 alone
			break
		}
	}
	return all
}

// serve serves the backends of all ways, from one thread.
func (l *lab) serve(ctx context.Context) error {
	var all []listener
	for _, w := range l.ways {
		all = append(all, w.backends()...)
	}
	return serve(ctx, l.server, all)
}
