package doctor

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// Who answered: each server says its letter to whoever connects.
const (
	fromLocal = 'L' // the router
	fromNew   = 'N' // the new host
	fromOther = 'X' // a third one
)

// lab is clients, the router that splits, and the new host behind it.
//
//	world 192.0.2.100, .1 - 192.0.2.25 router 10.0.0.1 - 10.0.0.12, .200 (alias), .99 (another service) new
//
// and the same in IPv6: 2001:db8::/64 in front, fd00::/64 behind. Nothing is
// wrong but what each test breaks.
type lab struct {
	t                  *testing.T
	world, router, new *nettest.NS
	kernel             *netfilter.Kernel
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, world: nettest.New(t, "world"), router: nettest.New(t, "router"), new: nettest.New(t, "new")}
	nettest.Link(t, l.world, "eth0", []string{"192.0.2.100/24", "192.0.2.1/24", "2001:db8::100/64", "2001:db8::1/64"},
		l.router, "eth0", []string{"192.0.2.25/24", "2001:db8::25/64"})
	nettest.Link(t, l.router, "eth1", []string{"10.0.0.1/24", "fd00::1/64"},
		l.new, "eth0", []string{"10.0.0.12/24", "10.0.0.200/32", "10.0.0.99/32", "fd00::12/64", "fd00::200/128"})
	l.router.Route("0.0.0.0/0", "192.0.2.1")
	l.router.Route("::/0", "2001:db8::1")
	l.new.Route("0.0.0.0/0", "10.0.0.1")
	l.new.Route("::/0", "fd00::1")
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/netfilter/nf_conntrack_acct"} {
		l.router.Sysctl(name, "1")
	}
	l.router.Sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")
	for _, ns := range []*nettest.NS{l.router, l.new} {
		for _, conf := range []string{"all", "eth0"} {
			ns.Sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0")
		}
	}
	// As the doctor says: what the new host begins itself comes from another.
	onDevice(t, l.new, "eth0", func(link netlink.Link) error {
		return netlink.AddrReplace(link, &netlink.Addr{IPNet: network("fd00::200/128"), PreferedLft: 0, ValidLft: 1 << 30})
	})
	l.router.Do(func() (err error) {
		l.kernel, err = netfilter.Open(netfilter.Options{Settings: settings, Log: slog.New(slog.DiscardHandler)})
		return err
	})
	t.Cleanup(func() { _ = l.kernel.Close() })
	return l
}

// half sends half of the flows to the new host by our real rules.
func half() traffic.Split {
	s := mxSplit("10.0.0.12", "fd00::12")
	s.Return = traffic.ReturnGateway
	s.Candidates[0].Weight = traffic.Whole / 2
	return s
}

// all sends all flows there.
func all() traffic.Split {
	s := half()
	s.Candidates[0].Weight = traffic.Whole
	return s
}

func (l *lab) apply(splits ...traffic.Split) {
	l.t.Helper()
	l.router.Do(func() error {
		_, err := l.kernel.Apply(l.t.Context(), splits, nil)
		return err
	})
}

// serveAll lets the router and the new host answer on port 25.
func (l *lab) serveAll() {
	l.t.Helper()
	l.serve(l.router, fromLocal, ":25")
	l.serve(l.new, fromNew, ":25")
}

func (l *lab) serve(ns *nettest.NS, letter byte, address string) {
	l.t.Helper()
	ns.Serve("tcp", address, func(c net.Conn) { _, _ = c.Write([]byte{letter}) })
}

const (
	service4 = "192.0.2.25:25"
	service6 = "[2001:db8::25]:25"
)

// ask connects from the clients' side n times and counts who answers; 0 counts
// connections that fail within the patience.
func (l *lab) ask(n int, patience time.Duration, address string) map[byte]int {
	l.t.Helper()
	answers := map[byte]int{}
	l.world.Do(func() error {
		for range n {
			letter, err := askOnce(address, patience)
			if err != nil {
				letter = 0
			}
			answers[letter]++
		}
		return nil
	})
	return answers
}

func askOnce(address string, patience time.Duration) (byte, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	letter := make([]byte, 1)
	if _, err := io.ReadFull(c, letter); err != nil {
		return 0, fmt.Errorf("read who answers: %w", err)
	}
	return letter[0], nil
}

// long is enough for a packet that passes, brief for one that is dropped.
const (
	long  = 10 * time.Second
	brief = 300 * time.Millisecond
)

// examine is a whole look at a host; connecting may take as long as brief.
func examine(t *testing.T, ns *nettest.NS, q Question, files fs.FS) []Finding {
	t.Helper()
	if files == nil {
		files = fstest.MapFS{}
	}
	var found []Finding
	ns.Do(func() (err error) {
		found, err = Examiner{Root: files, Patience: brief, NftVersion: func(context.Context) string { return "1.1.3" }}.Examine(t.Context(), q)
		return err
	})
	return found
}

// of are the findings of one row.
func of(findings []Finding, row string) []Finding {
	var some []Finding
	for _, f := range findings {
		if f.ID == row {
			some = append(some, f)
		}
	}
	return some
}

func onDevice(t *testing.T, ns *nettest.NS, device string, do func(netlink.Link) error) {
	t.Helper()
	ns.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		return do(link)
	})
}

func network(text string) *net.IPNet {
	p := netip.MustParsePrefix(text)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

var anyPolicy = nftables.ChainPolicyAccept
