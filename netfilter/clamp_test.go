package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// blackHole is a way to the new host that carries less than both ends believe,
// and whose ICMP errors get lost:
//
//	client 192.0.2.100 - 192.0.2.1 router - (1400) - hop - (1500) - new 10.0.0.12
type blackHole struct {
	t                        *testing.T
	client, router, hop, new *nettest.NS
}

const narrow = 1400

func newBlackHole(t *testing.T) blackHole {
	t.Helper()
	lab := blackHole{
		t: t, client: nettest.New(t, "client"), router: nettest.New(t, "router"),
		hop: nettest.New(t, "hop"), new: nettest.New(t, "new"),
	}
	nettest.Link(t, lab.client, "eth0", []string{"192.0.2.100/24", "2001:db8::100/64"}, lab.router, "eth0", []string{"192.0.2.1/24", "2001:db8::1/64"})
	nettest.Link(t, lab.router, "eth1", []string{"10.1.0.1/24", "fd01::1/64"}, lab.hop, "eth0", []string{"10.1.0.2/24", "fd01::2/64"})
	nettest.Link(t, lab.hop, "eth1", []string{"10.0.0.1/24", "fd00::1/64"}, lab.new, "eth0", []string{"10.0.0.12/24", "fd00::12/64"})
	setMTU(lab.router, "eth1", narrow)
	setMTU(lab.hop, "eth0", narrow)
	lab.client.Route("0.0.0.0/0", "192.0.2.1")
	lab.client.Route("::/0", "2001:db8::1")
	lab.router.Route("10.0.0.0/24", "10.1.0.2")
	lab.router.Route("fd00::/64", "fd01::2")
	lab.hop.Route("192.0.2.0/24", "10.1.0.1")
	lab.hop.Route("2001:db8::/64", "fd01::1")
	lab.new.Route("0.0.0.0/0", "10.0.0.1")
	lab.new.Route("::/0", "fd00::1")
	for _, ns := range []*nettest.NS{lab.router, lab.hop} {
		ns.Sysctl("net/ipv4/ip_forward", "1")
		ns.Sysctl("net/ipv6/conf/all/forwarding", "1")
		loseTooBig(ns)
	}
	lab.translate()
	serveSizes(t, lab.new)
	return lab
}

func setMTU(ns *nettest.NS, device string, mtu int) {
	ns.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, mtu)
	})
}

// loseTooBig drops what the host wants to say about packets that are too big:
// ICMP destination unreachable (RFC 792) and ICMPv6 packet too big (RFC 4443
// section 3.2).
func loseTooBig(ns *nettest.NS) {
	ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "firewall"})
		chain := conn.AddChain(&nftables.Chain{
			Name: "out", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
		})
		for protocol, kind := range map[byte]byte{unix.IPPROTO_ICMP: 3, unix.IPPROTO_ICMPV6: 2} {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				loadMeta(expr.MetaKeyL4PROTO, register1), equal(protocol),
				loadTransport(register1, 0, 1), equal(kind),
				&expr.Verdict{Kind: expr.VerdictDrop},
			}})
		}
		return conn.Flush()
	})
}

// translate sends the router's addresses to the new host, as a split does.
func (lab blackHole) translate() {
	lab.t.Helper()
	entrance := chain{name: "pre", hook: &hook{name: hookPrerouting, priority: prioritySplit}}
	for service, to := range map[string]string{"192.0.2.1": "10.0.0.12", "2001:db8::1": "fd00::12"} {
		entrance.rules = append(entrance.rules, rule{statements: []statement{
			destination{ip: netip.MustParseAddr(service)},
			transport{name: traffic.TCP},
			markFlow{keep: labSettings.keep(), value: labSettings.mark(classRemote)},
			translate{to: netip.MustParseAddr(to)},
		}})
	}
	lab.load(entrance)
}

// load puts the chains into a table of the router.
func (lab blackHole) load(chains ...chain) {
	lab.t.Helper()
	operations := []operation{addTable{}}
	for _, c := range chains {
		operations = append(operations, addChain{chain: c})
	}
	lab.router.Do(func() error {
		var l link
		defer l.close()
		return l.commit(on("split", operations...))
	})
}

// serveSizes listens on port 25: a client says how many bytes it will send and
// how many it wants, 4 bytes each.
func serveSizes(t *testing.T, ns *nettest.NS) {
	t.Helper()
	ns.Serve("tcp", ":25", func(c net.Conn) {
		var sizes [2]uint32
		if binary.Read(c, binary.BigEndian, &sizes) != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(sizes[0])); err == nil {
			_, _ = c.Write(make([]byte, sizes[1]))
		}
	})
}

// exchange sends and receives that many bytes within the time.
func exchange(ns *nettest.NS, address string, send, receive uint32, within time.Duration) error {
	return ns.NS.Do(func() error {
		c, err := net.DialTimeout("tcp", address, mustCome)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		if err := c.SetDeadline(time.Now().Add(within)); err != nil {
			return err
		}
		if err := binary.Write(c, binary.BigEndian, []uint32{send, receive}); err != nil {
			return err
		}
		if _, err := c.Write(make([]byte, send)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		n, err := io.Copy(io.Discard, c)
		if err == nil && n != int64(receive) {
			err = fmt.Errorf("received %d bytes, want %d", n, receive)
		}
		return err
	})
}

func TestLongExchangesPassAPathMTUBlackHoleBecauseSegmentsAreClamped(t *testing.T) {
	t.Parallel()
	const small, large = 100, 200_000
	lab := newBlackHole(t)
	services := []string{"192.0.2.1:25", "[2001:db8::1]:25"}
	for _, address := range services {
		if err := exchange(lab.client, address, small, small, mustCome); err != nil {
			t.Fatalf("%s: a short exchange: %v", address, err)
		}
		for _, size := range [][2]uint32{{large, small}, {small, large}} {
			err := exchange(lab.client, address, size[0], size[1], mustNot)
			if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
				t.Fatalf("%s: %d bytes there and %d back without a clamp: %v; want a black hole's timeout", address, size[0], size[1], err)
			}
		}
	}
	lab.load(clampChains(labSettings, false)...)
	for _, address := range services {
		for _, size := range [][2]uint32{{small, small}, {large, small}, {small, large}} {
			if err := exchange(lab.client, address, size[0], size[1], mustCome); err != nil {
				t.Errorf("%s: %d bytes there and %d back: %v", address, size[0], size[1], err)
			}
		}
	}
}
