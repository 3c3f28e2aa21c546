package splitter

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

// firewall is a table of the test's own namespace that does something to segments
// as they come in. It is gone when the test ends.
type firewall struct {
	t     testing.TB
	conn  *nftables.Conn
	table *nftables.Table
	chain *nftables.Chain
}

func newFirewall(t testing.TB) *firewall {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	f := &firewall{t: t, conn: conn}
	f.table = conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "faults"})
	f.chain = conn.AddChain(&nftables.Chain{
		Table: f.table, Name: "in", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	f.commit()
	t.Cleanup(f.lift)
	return f
}

// commit puts into the kernel what has been said. The library looks for the answer
// by pselect(2), which knows no descriptor from 1024 on (google/nftables#352).
func (f *firewall) commit() {
	f.t.Helper()
	nettest.Eventually(f.t, "the connections of before are closed", func() bool { return len(openFiles(f.t)) < 900 })
	if err := f.conn.Flush(); err != nil {
		f.t.Fatal(err)
	}
}

// rule adds one for segments that match.
func (f *firewall) rule(match []expr.Any, verdict ...expr.Any) {
	f.conn.AddRule(&nftables.Rule{Table: f.table, Chain: f.chain, Exprs: append(match, verdict...)})
}

// lift lets everything through again.
func (f *firewall) lift() {
	if f.table != nil {
		f.conn.DelTable(f.table)
		f.commit()
	}
	f.table = nil
}

// part drops all that goes between that port and any other: neither hears of the
// other any more, as when a host, or the way to it, is no more.
func (f *firewall) part(at netip.AddrPort) {
	f.t.Helper()
	for _, offset := range []uint32{ofSource, ofDestination} {
		f.rule(segments(offset, at.Port()), &expr.Verdict{Kind: expr.VerdictDrop})
	}
	f.commit()
}

// answerSYNs has what asks for a connection with that port answered like that.
func (f *firewall) answerSYNs(at netip.AddrPort, answer ...expr.Any) {
	f.t.Helper()
	f.rule(append(segments(ofDestination, at.Port()), syn()...), answer...)
	f.commit()
}

// Where ports are in a segment (RFC 9293, section 3.1).
const (
	ofSource      = 0
	ofDestination = 2
	ofFlags       = 13
)

// segments are those with that port.
func segments(offset uint32, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}

// syn is a segment that begins a connection: SYN without ACK.
func syn() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: ofFlags, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}},
	}
}

// The answers.
func dropped() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

func refusedByReset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

func unreachable() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_HOST_UNREACH}}
}
