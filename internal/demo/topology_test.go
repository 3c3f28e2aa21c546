package demo

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// newNetwork is the kernel stage with its mail servers and clients, and
// without any splitd.
func newNetwork(t *testing.T) (*network, *cast) {
	t.Helper()
	n := &network{}
	if err := n.build(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &cast{splitd: self, dir: t.TempDir(), book: newLedger(), mended: make(chan struct{})}
	t.Cleanup(c.dismiss)
	if err := c.certify(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := n.hosts(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := c.mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, c
}

// mail sends so many mails, by turns over all ways, and returns the verdict
// over them.
func (c *cast) mail(t *testing.T, count int) verdict {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	pump := newPump(c.book, c.ways, 1000, c.clients.order)
	stopped := make(chan error, 1)
	go func() { stopped <- pump.Run(ctx) }()
	nettest.Eventually(t, "the mails are sent", func() bool { return c.book.Tally(between).Sent >= count })
	stop()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := c.finishMail(); err != nil {
		t.Fatal(err)
	}
	return c.book.Judge()
}

// divert does by hand, and for every flow, what splitd does for a share.
func divert(t *testing.T, ns *netns.NS) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(ns.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "by_hand"})
	chain := c.AddChain(&nftables.Chain{
		Table: table, Name: "pre", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	for _, family := range []struct {
		number          byte
		offset, length  uint32
		service, target string
	}{{unix.NFPROTO_IPV4, 16, 4, serviceV4, newV4}, {unix.NFPROTO_IPV6, 24, 16, serviceV6, newV6}} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Register: 1, Data: []byte{family.number}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: family.offset, Len: family.length},
			&expr.Cmp{Register: 1, Data: netip.MustParseAddr(family.service).AsSlice()},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Immediate{Register: 1, Data: netip.MustParseAddr(family.target).AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(25)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family.number), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		}})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// returnPaths does by hand what splitd does for return_paths.
func returnPaths(t *testing.T, ns *netns.NS) {
	t.Helper()
	err := ns.Do(func() error {
		for _, way := range []struct {
			from, via string
			bits      int
		}{{newV4, viaV4, 32}, {newV6, viaV6, 128}} {
			rule := netlink.NewRule()
			rule.Priority, rule.Table = 5200, 5300
			rule.Src = &net.IPNet{IP: net.ParseIP(way.from), Mask: net.CIDRMask(way.bits, way.bits)}
			if err := netlink.RuleAdd(rule); err != nil {
				return err
			}
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(way.via), Table: 5300}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func refuted(claims []claim) []string {
	var texts []string
	for _, c := range claims {
		if !c.holds {
			texts = append(texts, fmt.Sprintf("%s %q", c.text, c.why))
		}
	}
	return texts
}

func TestMailOfAllClientsReachesTheOldMXByBothFamilies(t *testing.T) {
	_, c := newNetwork(t)
	v := c.mail(t, 60)
	if v.failed() != 0 || len(v.Lost)+len(v.Twice)+len(v.Strays)+len(v.Strangers) != 0 {
		t.Errorf("verdict = %+v", v)
	}
	if v.Arrived[oldMX] != v.Sent || v.Sent < 60 {
		t.Errorf("%d of %d mails arrived at the old MX", v.Arrived[oldMX], v.Sent)
	}
	if got := len(v.Clients[oldMX]); got != len(clientAddresses()) {
		t.Errorf("the old MX saw %d client addresses: %v", got, v.Clients[oldMX])
	}
}

func TestEveryClaimOfTheNetworkHoldsForAnHonestSplit(t *testing.T) {
	n, c := newNetwork(t)
	divert(t, n.old)
	returnPaths(t, n.new)
	v := c.mail(t, 60)
	if v.Arrived[newMX] != v.Sent || v.failed() != 0 {
		t.Fatalf("verdict = %+v, want every mail at the new MX", v)
	}
	if got := refuted(n.prove(v)); got != nil {
		t.Errorf("refuted: %q", got)
	}
	if got := refuted([]claim{failureClaim(v), lossClaim(v)}); got != nil {
		t.Errorf("refuted: %q", got)
	}
	// What we did by hand is a trace, and nobody cleans it up.
	left := n.leave(t.Context(), c, newShow(t.Output(), os.LookupEnv, nil))
	if left.holds || !strings.Contains(strings.Join(left.why, "\n"), "+ nft: table inet name by_hand") {
		t.Errorf("leave = %+v, want the table named", left)
	}
}

func TestMailFailsWithoutTheWayBackAndTheClaimsSaySo(t *testing.T) {
	n, c := newNetwork(t)
	divert(t, n.old)
	if got := refuted([]claim{n.routeClaim()}); len(got) != 1 || !strings.Contains(got[0], "not by 10.0.0.1") {
		t.Errorf("refuted = %q, want the missing way back", got)
	}
	w := c.ways[0]
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := n.clients.Do(func() error {
		dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(w.from(0))}
		conn, err := dialer.DialContext(ctx, "tcp4", w.To.String())
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
	if err == nil {
		t.Error("a connection came about although the new MX has no route to its client")
	}
}

func TestASecondWayToTheClientsRefutesTheRouteClaim(t *testing.T) {
	n, _ := newNetwork(t)
	returnPaths(t, n.new)
	if got := refuted([]claim{n.routeClaim()}); got != nil {
		t.Fatalf("refuted: %q", got)
	}
	if err := n.new.AddRoute("198.51.100.0/24", viaV4); err != nil {
		t.Fatal(err)
	}
	if got := refuted([]claim{n.routeClaim()}); len(got) != 1 || !strings.Contains(got[0], "without the return path") {
		t.Errorf("refuted = %q, want the other way named", got)
	}
}
