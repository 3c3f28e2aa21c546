package splitter

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

const (
	legMark    = 1 << 20
	handedMark = 1 << 21 // of packets that an inlet gets
	handTable  = 100     // the route table that they are routed by
)

// kernelSplit is a split of mode kernel.
func kernelSplit(name string, service, primary netip.AddrPort) traffic.Split {
	s := newSplit(name, service, primary, nil)
	s.Mode, s.Generation = traffic.ModeKernel, 7
	return s
}

// sampling does what the rules of a split do that is sampled whole: who asks for the
// service is sent to the primary, and by way of the inlet at the port, if somebody
// listens there. All of them are of one loopback.
func sampling(t testing.TB, service, primary netip.AddrPort, port uint16) *firewall {
	t.Helper()
	f := newFirewall(t)
	in := f.chain
	f.chain = f.conn.AddChain(&nftables.Chain{
		Table: f.table, Name: "translate", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	family := byte(unix.NFPROTO_IPV4)
	if service.Addr().Is6() {
		family = unix.NFPROTO_IPV6
	}
	f.rule(segments(ofDestination, service.Port()),
		&expr.Immediate{Register: 1, Data: primary.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, primary.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(family), RegAddrMin: 1, RegProtoMin: 2, Specified: true})
	f.chain = f.conn.AddChain(&nftables.Chain{
		Table: f.table, Name: "hand over", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-95),
	})
	f.rule(append(segments(ofDestination, primary.Port()),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(legMark)}),
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Immediate{Register: 1, Data: service.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.TProxy{Family: family, TableFamily: unix.NFPROTO_INET, RegAddr: 1, RegPort: 2},
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(handedMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true},
		&expr.Verdict{Kind: expr.VerdictAccept})
	f.commit()
	f.chain = in
	takeHanded(t, service.Addr())
	return f
}

// answerLegs has what a relay sends there to connect answered like that.
func (f *firewall) answerLegs(at netip.AddrPort, answer ...expr.Any) {
	f.t.Helper()
	f.answerSYNs(at, append([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(legMark)},
	}, answer...)...)
}

// takeHanded has this host take what is marked, whoever it is for.
func takeHanded(t testing.TB, ip netip.Addr) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Mark, rule.Priority = netlink.FAMILY_V4, handTable, handedMark, 1000
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	if ip.Is6() {
		rule.Family = netlink.FAMILY_V6
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Table: handTable, Type: unix.RTN_LOCAL, Dst: all, Scope: netlink.SCOPE_HOST}
	if err := errors.Join(netlink.RuleAdd(rule), netlink.RouteReplace(route)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = netlink.RuleDel(rule), netlink.RouteDel(route) })
}

func (r *testRelay) openInlet(split traffic.Split) (port uint16) {
	r.t.Helper()
	port, err := r.OpenInlet(split)
	if err != nil {
		r.t.Fatalf("OpenInlet() = %v", err)
	}
	return port
}

// inletLab is a relay that all who ask for a service pass on their way to its primary.
type inletLab struct {
	*testRelay
	tee              *recorder
	split            traffic.Split
	service, primary netip.AddrPort
	port             uint16 // the inlet's
	rules            *firewall
}

func newInletLab(t testing.TB, ip netip.Addr, primary netip.AddrPort, change func(*traffic.Split, *Options)) *inletLab {
	t.Helper()
	l := &inletLab{tee: &recorder{}, service: netip.AddrPortFrom(ip, freePort()), primary: primary}
	l.split = kernelSplit("mx", l.service, primary)
	o := Options{LegMark: legMark, Tee: l.tee}
	if change != nil {
		change(&l.split, &o)
	}
	l.testRelay = startRelay(t, o)
	l.port = l.openInlet(l.split)
	l.rules = sampling(t, l.service, primary, l.port)
	return l
}

// inlet is how that of the split does.
func (l *inletLab) inlet() Inlet { return l.Inlets()[l.split.Name] }

// flows are the numbers of the inlet alone.
func (l *inletLab) flows() [3]uint64 {
	in := l.inlet()
	return [3]uint64{in.Flows, in.Failed, in.Trouble}
}

// openFronts is how many listeners the workers have.
func (r *testRelay) openFronts() int {
	open := 0
	r.inspect(func(w *worker) {
		for _, l := range w.listeners {
			if l.front != nil {
				open++
			}
		}
	})
	return open
}

const shortly = 50 * time.Millisecond
