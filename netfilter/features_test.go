package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/nftables"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

// feature is something that a kernel has or lacks.
type feature struct {
	name    string
	since   string // the first version that has it
	use     string // what it is for
	without string // what happens on a kernel that lacks it
	try     func(p probe) error
}

// probe is a namespace in which one feature is tried.
type probe struct {
	t    testing.TB
	ns   *nettest.NS
	conn *nftables.Conn
}

const (
	never  = "the rules do not load"
	partly = "splits that want it do not load"
	unused = "nothing: not used yet"
)

// features are what the rules of this package use and what stands between a
// choice of ways. The versions are those of the nftables wiki ("List of updates
// since Linux kernel 3.13"), of the documentation of ti-mo/conntrack (status and
// zone), of the commits 0f298a285f2e and 866476f32346 (mark), and of the first
// kernels with nft_numgen.c and nft_hash.c.
func features() []feature {
	return []feature{
		{"maps with concatenated keys", "4.1", "one lookup for all services", never, probe.concatenatedMap},
		{"numgen random", "4.9", "the draw", never, withRule(numgen(), &expr.Counter{})},
		{"jhash", "4.9", "the draw by client (`affinity: source`)", partly, withRule(jhash()...)},
		{"named counters", "4.10", "flows per backend, kept when weights change", never, probe.namedCounter},
		{"tcp option maxseg size set rt mtu", "4.14", "segments that fit the way to a backend", never, probe.clamp},
		{"ct timeout objects", "4.19", "a timeout per split", partly, probe.ctTimeout},
		{"nat chains of family inet", "5.2", "one table for IPv4 and IPv6", never, probe.inetNAT},
		{"ranges in concatenated keys", "5.6", "runs of ports", partly, probe.concatenatedRanges},
		{"deleting conntrack entries by mark", "4.0", "`cleanup --now`, `--kill`", "**all** entries are deleted, of others too", probe.flushByMark},
		{"listing conntrack entries by mark", "3.4", "liveness for `cleanup`", "all entries are listed", probe.dumpByMark},
		{"listing conntrack entries by status", "5.15", "freeing attempts to who takes nothing", "all entries are looked through", probe.dumpByStatus},
		{"listing conntrack entries by zone", "6.8", "less to look through", unused, probe.dumpByZone},
		{"ip rules by source port", "4.17", "transparent relays with a primary at 127.0.0.1", "their flows to it time out", probe.sourcePortRule},
		{"dup, in tables ip and ip6", "4.3", "mirror", partly, probe.dup},
		{"fib", "4.10", "is this address ours?", unused, withRule(&expr.Fib{Register: register1, ResultADDRTYPE: true, FlagDADDR: true})},
		{"socket transparent", "4.18", "replies to transparent sockets", unused, withRule(&expr.Socket{Key: expr.SocketKeyTransparent, Register: register1})},
		{"tproxy", "4.19", "the sampled share for shadowing", partly, withRule(tproxy()...)},
		{"counters on elements of sets", "5.7", "counting by element", unused, probe.elementCounter},
		{"table owner", "5.12", "a table that others cannot flush while its owner lives", "nothing: of no use without persist", owned(nftables.TableFlagOwner)},
		{"destroy", "6.3", "deleting what may be gone", unused, probe.destroy},
		{"table owner and persist", "6.9", "others cannot flush or change our tables, which outlive the daemon", "others' changes are seen and mended", owned(nftables.TableFlagOwner | nftables.TableFlagPersist)},
	}
}

// TestTheKernelHasTheFeaturesOfItsVersion tries each feature on the kernel it
// runs on, prints which there are (e2e/kernel/run.sh makes a table of that), and
// fails where a kernel is new enough and lacks one.
func TestTheKernelHasTheFeaturesOfItsVersion(t *testing.T) {
	version := kernelVersion(t)
	for _, f := range features() {
		ns := nettest.New(t, "probe")
		conn, err := nftables.New(nftables.WithNetNSFd(ns.FD()), nftables.AsLasting())
		if err != nil {
			t.Fatal(err)
		}
		err = f.try(probe{t: t, ns: ns, conn: conn})
		there := "yes"
		if err != nil {
			there = "no"
		}
		t.Logf("FEATURE\t%s\t%s", f.name, there)
		if err != nil && !older(version, parseVersion(t, f.since)) {
			t.Errorf("%s should be there since %s: %v", f.name, f.since, err)
		}
		_ = conn.CloseLasting()
		_ = ns.Close()
	}
}

func TestTheREADMETellsWhichKernelEachFeatureNeeds(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range features() {
		if line := fmt.Sprintf("| %s | %s | %s | %s |", f.name, f.since, f.use, f.without); !strings.Contains(string(text), line+"\n") {
			t.Errorf("README.md lacks the line\n%s", line)
		}
	}
}

// kernelVersion is major and minor number of the running kernel.
func kernelVersion(t testing.TB) [2]int {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	return parseVersion(t, unix.ByteSliceToString(name.Release[:]))
}

func parseVersion(t testing.TB, text string) (version [2]int) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "%d.%d", &version[0], &version[1]); err != nil {
		t.Fatalf("read kernel version %q: %v", text, err)
	}
	return version
}

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }

// table makes a table and a chain in it that no packet reaches.
func (p probe) table(family nftables.TableFamily) (*nftables.Table, *nftables.Chain) {
	table := p.conn.AddTable(&nftables.Table{Name: "probe", Family: family})
	return table, p.conn.AddChain(&nftables.Chain{Name: "chain", Table: table})
}

// withRule tries to add a rule of these expressions.
func withRule(expressions ...expr.Any) func(p probe) error {
	return func(p probe) error {
		table, _ := p.table(nftables.TableFamilyINet)
		chain := p.conn.AddChain(&nftables.Chain{
			Name: "hooked", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
		})
		p.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: expressions})
		return p.conn.Flush()
	}
}

func numgen() expr.Any {
	return &expr.Numgen{Register: register1, Modulus: 1_000_000, Type: unix.NFT_NG_RANDOM}
}

func jhash() []expr.Any {
	return append(ofFamily(false),
		&expr.Payload{DestRegister: register2, Base: expr.PayloadBaseNetworkHeader, Offset: offsetSource4, Len: 4},
		&expr.Hash{SourceRegister: register2, DestRegister: register1, Length: 4, Modulus: 1_000_000, Seed: 1, Type: expr.HashTypeJenkins})
}

// clamp needs a hook behind the routing decision (nft_rt_validate, net/netfilter/nft_rt.c).
func (p probe) clamp() error {
	table, _ := p.table(nftables.TableFamilyINet)
	chain := p.conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityMangle,
	})
	p.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(ofTransport("tcp"),
		&expr.Rt{Register: register1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: register1, DestRegister: register1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: register1, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt})})
	return p.conn.Flush()
}

func tproxy() []expr.Any {
	return append(append(ofFamily(false), ofTransport("tcp")...),
		&expr.Immediate{Register: register1, Data: []byte{127, 0, 0, 1}},
		&expr.Immediate{Register: register2, Data: []byte{0x3a, 0x98}},
		&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_INET, RegAddr: register1, RegPort: register2})
}

func (p probe) inetNAT() error {
	table, _ := p.table(nftables.TableFamilyINet)
	chain := p.conn.AddChain(&nftables.Chain{
		Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		p.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: translate{to: netip.MustParseAddr(to)}.expressions()})
	}
	return p.conn.Flush()
}

func (p probe) dup() error {
	table, _ := p.table(nftables.TableFamilyIPv4)
	chain := p.conn.AddChain(&nftables.Chain{
		Name: "hooked", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle,
	})
	p.conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Immediate{Register: register1, Data: []byte{192, 0, 2, 1}}, &expr.Dup{RegAddr: register1},
	}})
	return p.conn.Flush()
}

func (p probe) sourcePortRule() error {
	rule := ipRule{priority: 1, family: unix.AF_INET, from: netip.MustParseAddr("127.0.0.1"), sport: 25, table: 100}
	return p.ns.NS.Do(func() error {
		if err := rule.add(); err != nil {
			return err
		}
		has, err := readRules()
		if err == nil && (len(has) != 1 || has[0].odd || has[0].ipRule != rule) {
			err = fmt.Errorf("the kernel has %+v", has)
		}
		return err
	})
}

func (p probe) namedCounter() error {
	table, _ := p.table(nftables.TableFamilyINet)
	p.conn.AddObj(&nftables.NamedObj{Table: table, Name: "counter", Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	return p.conn.Flush()
}

func (p probe) ctTimeout() error {
	table, _ := p.table(nftables.TableFamilyINet)
	p.conn.AddObj(&nftables.NamedObj{Table: table, Name: "timeout", Type: nftables.ObjTypeCtTimeout, Obj: &expr.CtTimeout{
		L3Proto: unix.NFPROTO_IPV4, L4Proto: unix.IPPROTO_UDP,
		Policy: expr.CtStatePolicyTimeout{expr.CtStateUDPUNREPLIED: 5, expr.CtStateUDPREPLIED: 10},
	}})
	return p.conn.Flush()
}

func (p probe) concatenatedMap() error {
	return p.set(&nftables.Set{IsMap: true, DataType: nftables.TypeVerdict})
}

func (p probe) concatenatedRanges() error { return p.set(&nftables.Set{Interval: true}) }

func (p probe) elementCounter() error { return p.set(&nftables.Set{Counter: true}) }

// set tries to add a set of addresses and ports with one element.
func (p probe) set(set *nftables.Set) error {
	table, chain := p.table(nftables.TableFamilyINet)
	set.Table, set.Name, set.Concatenation = table, "set", true
	set.KeyType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	element := nftables.SetElement{Key: []byte{192, 0, 2, 1, 0, 25, 0, 0}}
	if set.IsMap {
		element.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name}
	}
	if set.Interval {
		element.KeyEnd = []byte{192, 0, 2, 9, 0, 30, 0, 0}
	}
	if err := p.conn.AddSet(set, []nftables.SetElement{element}); err != nil {
		return err
	}
	return p.conn.Flush()
}

// owned tries to own a table by these flags, against another socket.
func owned(flags nftables.TableFlags) func(p probe) error {
	return func(p probe) error {
		table := p.conn.AddTable(&nftables.Table{Name: "probe", Family: nftables.TableFamilyINet, Flags: flags})
		if err := p.conn.Flush(); err != nil {
			return err
		}
		other, err := nftables.New(nftables.WithNetNSFd(p.ns.FD()))
		if err != nil {
			return err
		}
		other.DelTable(table)
		if err := other.Flush(); !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("another socket deletes the table: %w", err)
		}
		return nil
	}
}

func (p probe) destroy() error {
	p.conn.DestroyTable(&nftables.Table{Name: "none", Family: nftables.TableFamilyINet})
	return p.conn.Flush()
}

// Entries of conntrack with these marks, and the status SEEN_REPLY only in the
// first. Older kernels ignore a filter that they do not know.
const firstMark, secondMark = 0x00100000, 0x00200000

func (p probe) flows() (*conntrack.Conn, error) {
	conn, err := conntrack.Dial(&netlink.Config{NetNS: p.ns.FD()})
	if err != nil {
		return nil, err
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	for i, mark := range []uint32{firstMark, secondMark} {
		status := conntrack.StatusConfirmed
		if mark == firstMark {
			status |= conntrack.StatusSeenReply | conntrack.StatusAssured
		}
		f := conntrack.NewFlow(unix.IPPROTO_UDP, status, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), uint16(1000+i), 53, 60, mark)
		f.Zone = uint16(i)
		if err := conn.Create(f); err != nil {
			return nil, err
		}
	}
	return conn, nil
}

// marksAre checks the marks of entries.
func marksAre(flows []conntrack.Flow, want uint32) error {
	if len(flows) != 1 || flows[0].Mark != want {
		return fmt.Errorf("%d entries, want the one marked %#x", len(flows), want)
	}
	return nil
}

func (p probe) flushByMark() error {
	conn, err := p.flows()
	if err != nil {
		return err
	}
	if err := conn.FlushFilter(conntrack.NewFilter().Mark(firstMark).MarkMask(0xfff00000)); err != nil {
		return err
	}
	left, err := conn.Dump(nil)
	return errors.Join(err, marksAre(left, secondMark))
}

func (p probe) dumpByMark() error {
	return p.dump(conntrack.NewFilter().Mark(firstMark).MarkMask(0xfff00000), firstMark)
}

func (p probe) dumpByStatus() error {
	return p.dump(conntrack.NewFilter().Status(conntrack.StatusSeenReply), firstMark)
}

func (p probe) dumpByZone() error { return p.dump(conntrack.NewFilter().Zone(1), secondMark) }

func (p probe) dump(filter conntrack.Filter, want uint32) error {
	conn, err := p.flows()
	if err != nil {
		return err
	}
	flows, err := conn.DumpFilter(filter, nil)
	return errors.Join(err, marksAre(flows, want))
}
